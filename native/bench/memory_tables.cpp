// The memory tables: plan by component and allocation, what an engine really allocates, and SPEC-like tables of the KV
// cache and of int8 beside 16-bit weights.
#include <cstdio>

#include "bench/measure.h"
#include "ops/registry.h"
#include "runtime/engine.h"

namespace tinyllm::bench {

namespace {

double megabytes(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

EngineConfig config_for(const Options& options, int32_t batch, int32_t context) {
    EngineConfig config;
    config.device_kind = options.device;
    config.device_index = options.device_index;
    config.kv_cache.max_batch_size = batch;
    config.kv_cache.max_seq_len = context;
    config.max_step_tokens = options.max_step_tokens;
    return checked(config);
}

bool device_usable(const Options& options) {
    for (const tl_device_info& device : list_devices())
        if (device.device_kind == static_cast<int32_t>(options.device) && device.device_index == options.device_index)
            return device.usable != 0;
    return false;
}

void print_plan(const MemoryPlan& plan, const MemoryTracker* tracker, Report& report) {
    std::printf("%-14s %16s %12s %16s\n", "component", "planned bytes", "MB", tracker ? "actual bytes" : "");
    for (int i = 0; i < kNumComponents; ++i) {
        const auto component = static_cast<Component>(i);
        const uint64_t planned = plan.component_bytes(component);
        const uint64_t actual = tracker ? tracker->stats(component).current_bytes : 0;
        if (planned == 0 && actual == 0) continue;
        std::printf("%-14s %16llu %12.2f", component_name(component), static_cast<unsigned long long>(planned),
                    megabytes(planned));
        if (tracker) std::printf(" %16llu", static_cast<unsigned long long>(actual));
        std::printf("\n");
        Record record;
        record.add("component", std::string(component_name(component)))
            .add("planned_bytes", static_cast<double>(planned));
        if (tracker) record.add("actual_bytes", static_cast<double>(actual));
        report.add("memory", record);
    }
    std::printf("%-14s %16llu %12.2f\n\n", "total", static_cast<unsigned long long>(plan.total()),
                megabytes(plan.total()));
}

void print_activations(const MemoryPlan& plan) {
    std::printf("activation buffers\n");
    for (const PlanEntry& entry : plan.entries) {
        if (entry.component != Component::Activations) continue;
        std::printf("  %-18s [%lld, %lld] %s %12.2f MB\n", entry.name.c_str(), static_cast<long long>(entry.shape[0]),
                    static_cast<long long>(entry.shape[1]), dtype_name(entry.dtype), megabytes(entry.bytes));
    }
    std::printf("\n");
}

void print_kv_table(const Options& options) {
    std::printf("KV cache, MB      batch 1      batch 4      batch 8\n");
    for (const int32_t context : {512, 1024, 2048, 4096}) {
        std::printf("%5d tokens", context);
        for (const int32_t batch : {1, 4, 8})
            std::printf(
                " %12.0f",
                megabytes(
                    make_plan(options.model, config_for(options, batch, context)).component_bytes(Component::KvCache)));
        std::printf("\n");
    }
    std::printf("\n");
}

void print_quantization_table(const Options& options) {
    Options int8 = options, half = options;
    int8.model.quantization = QuantizationType::W8A16;
    half.model.quantization = QuantizationType::NONE;
    const MemoryPlan small = make_plan(int8.model, config_for(options, 1, options.context));
    const MemoryPlan large = make_plan(half.model, config_for(options, 1, options.context));
    std::printf("weights, MB           int8       16-bit\n");
    for (const Component component : {Component::Weights, Component::Scales, Component::Embedding, Component::Norms})
        std::printf("%-12s %12.2f %12.2f\n", component_name(component), megabytes(small.component_bytes(component)),
                    megabytes(large.component_bytes(component)));
    std::printf("\n");
}

}  // namespace

void print_memory(const Options& options, Report& report) {
    const EngineConfig config = config_for(options, options.batches.front(), options.context);
    const MemoryPlan plan = make_plan(options.model, config);
    std::printf("%s, batch %d, %d tokens\n", options.model_name.c_str(), config.kv_cache.max_batch_size,
                config.kv_cache.max_seq_len);
    bool shown = false;
    if (device_usable(options)) {
        const std::unique_ptr<Backend> backend = make_backend(options.device, options.device_index);
        if (plan.total() <= backend->device_memory().free_bytes) {
            const Engine engine(options.model, config);
            print_plan(plan, &engine.tracker(), report);
            shown = true;
        }
    }
    if (!shown) {
        std::printf("(planned only: this machine cannot hold it)\n");
        print_plan(plan, nullptr, report);
    }
    print_activations(plan);
    print_quantization_table(options);
    print_kv_table(options);
}

}  // namespace tinyllm::bench
