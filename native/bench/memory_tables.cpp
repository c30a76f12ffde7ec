// The memory of one configuration: plan by component and buffer, what an engine really allocates, what a GPU's driver
// takes in addition.
#include <cstdio>
#include <utility>

#include "backends/registry.h"
#include "bench/measure.h"
#include "core/megabytes.h"
#include "engine/batcher.h"
#include "planning/overhead.h"
#include "testing/synthetic_model.h"

namespace tinyllm::bench {

namespace {

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

// Fills the weights, and decodes with 1, 2, 4, ... sequences up to the batch, greedily and with every filter of the
// sampler: kernels are loaded and steps captured then, as they are once a model is in use.
void use(Batcher& engine) {
    constexpr int32_t kPrompt = 16, kTokens = 4;  // decode steps: one as it is, one that captures, one that replays
    engine.runner().fill_random(1);
    GenerationParams greedy;
    greedy.max_new_tokens = kTokens;
    GenerationParams filtered = greedy;
    filtered.sampling.temperature = 1.0f;
    filtered.sampling.top_k = 20;
    filtered.sampling.top_p = 0.9f;
    filtered.sampling.min_p = 0.01f;
    filtered.sampling.repetition_penalty = 1.3f;
    filtered.sampling.logprobs = true;
    const std::vector<int32_t> prompt = testing::random_tokens(kPrompt, engine.runner().model_config().vocab_size, 1);
    for (const GenerationParams& params : {greedy, filtered}) {
        for (int32_t count = 1; count <= engine.runner().config().kv_cache.max_batch_size; count *= 2) {
            for (int32_t i = 0; i < count; ++i) engine.submit(prompt, params, nullptr);
            std::vector<Event> events;
            while (engine.step(events)) events.clear();
        }
    }
}

void print_driver(const Batcher& engine, Report& report) {
    const DriverMemory driver = engine.runner().driver_memory();
    const std::pair<const char*, int64_t> lines[] = {
        {"context", driver.context}, {"modules", driver.modules}, {"code reserve", driver.reserve},
        {"graphs", driver.graphs},   {"pool", driver.pool},       {"unexplained", driver.unexplained},
        {"driver lost", driver.lost}};
    std::printf("beside it, by the driver's count of free bytes, once in use\n");
    for (const auto& [name, bytes] : lines) {
        std::printf("%-14s %16lld %12.2f\n", name, static_cast<long long>(bytes), megabytes(bytes));
        report.add("driver", Record().add("name", std::string(name)).add("bytes", static_cast<double>(bytes)));
    }
    std::printf("\n");
}

void print_overhead(const Options& options, const EngineConfig& config) {
    const std::vector<OverheadEntry> entries = overhead(options.model, config);
    if (entries.empty()) return;
    std::printf("beside the plan, at most\n");
    for (const OverheadEntry& entry : entries)
        std::printf("  %-26s %-8s %-14s %12.2f MB\n", entry.name.c_str(), entry.on_device ? "device" : "host",
                    entry.only_loading ? "while loading" : "", megabytes(entry.bytes));
    std::printf("\n");
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

}  // namespace

void print_memory(const Options& options, Report& report) {
    const EngineConfig config =
        engine_config(options, options.batches.front(), options.context, options.max_step_tokens);
    const MemoryPlan plan = make_plan(options.model, config);
    std::printf("%s, batch %d, %d tokens\n", options.model_name.c_str(), config.kv_cache.max_batch_size,
                config.kv_cache.max_seq_len);
    bool shown = false;
    const bool usable = device_usable(options);
    if (usable) {
        const std::unique_ptr<Backend> backend = make_backend(options.device, options.device_index);
        if (plan.total() <= plan_budget(options.model, config, backend->device_memory().free_bytes)) {
            Batcher engine(options.model, config);
            print_plan(plan, &engine.runner().tracker(), report);
            if (config.device_kind == DeviceKind::Cuda) {
                use(engine);
                print_driver(engine, report);
            }
            shown = true;
        }
    }
    if (!shown) {
        std::printf("(planned only: %s)\n", usable ? "this device cannot hold it" : "this machine has no such device");
        print_plan(plan, nullptr, report);
    }
    print_overhead(options, config);
    print_activations(plan);
    print_model_tables(options);
}

}  // namespace tinyllm::bench
