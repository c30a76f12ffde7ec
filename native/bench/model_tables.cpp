// The tables of docs/memory-model.md for any model: what int8 saves, what the KV cache takes, what a prompt takes.
#include <algorithm>
#include <cstdio>

#include "bench/measure.h"
#include "memory/tracker.h"
#include "model/decoder_spec.h"
#include "planning/plan.h"

namespace tinyllm::bench {

namespace {

double megabytes(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

MemoryPlan plan_of(const Options& options, const ModelConfig& model, int32_t batch, int32_t context,
                   int32_t max_step_tokens) {
    EngineConfig config;
    config.device_kind = options.device;
    config.device_index = options.device_index;
    config.kv_cache.max_batch_size = batch;
    config.kv_cache.max_seq_len = context;
    config.max_step_tokens = max_step_tokens;
    return make_plan(model, checked(config));
}

// Bytes of the entries of these names.
uint64_t entry_bytes(const MemoryPlan& plan, const std::vector<std::string>& names) {
    uint64_t bytes = 0;
    for (const PlanEntry& entry : plan.entries)
        if (std::find(names.begin(), names.end(), entry.name) != names.end()) bytes += entry.bytes;
    return bytes;
}

void print_weights(const Options& options) {
    ModelConfig int8 = options.model, half = options.model;
    int8.quantization = QuantizationType::W8A16;
    half.quantization = QuantizationType::NONE;
    const MemoryPlan small = plan_of(options, int8, 1, 1, 0), large = plan_of(options, half, 1, 1, 0);
    const auto row = [](const char* name, uint64_t first, uint64_t second) {
        std::printf("%-24s %12.2f %12.2f\n", name, megabytes(first), megabytes(second));
    };
    std::printf("%-24s %12s %12s\n", "weights, MB", "int8", "16-bit");
    const DecoderSpec spec = make_decoder_spec(options.model);
    const auto entries_row = [&](const char* name, const std::vector<std::string>& entries) {
        row(name, entry_bytes(small, entries), entry_bytes(large, entries));
    };
    const auto of_layer = [&](const LayerSpec& layer, const std::vector<MatrixRole>& roles) {
        std::vector<std::string> entries;
        for (const MatrixSpec& matrix : layer.matrices)
            if (roles.empty() || std::find(roles.begin(), roles.end(), matrix.role) != roles.end())
                entries.push_back(matrix.name + ".weight");
        return entries;
    };
    const LayerSpec& first = spec.layers.front();
    entries_row("attention QKV", of_layer(first, {MatrixRole::Qkv}));
    entries_row("attention output", of_layer(first, {MatrixRole::AttentionOutput}));
    entries_row("FFN gate + up + down", of_layer(first, {MatrixRole::GateUp, MatrixRole::Down}));
    entries_row("a layer", of_layer(first, {}));
    std::vector<std::string> all;
    for (const LayerSpec& layer : spec.layers)
        for (const std::string& entry : of_layer(layer, {})) all.push_back(entry);
    entries_row("all layers", all);
    if (spec.head) entries_row("output matrix", {spec.head->name + ".weight"});
    for (const Component component : {Component::Scales, Component::Embedding, Component::Norms})
        row(component_name(component), small.component_bytes(component), large.component_bytes(component));
    std::printf("\n");
}

void print_kv_cache(const Options& options) {
    std::printf("%-24s %12s %12s %12s\n", "KV cache, MB", "batch 1", "batch 4", "batch 8");
    for (const int32_t context : {512, 1024, 2048, 4096}) {
        std::printf("%17d tokens", context);
        for (const int32_t batch : {1, 4, 8})
            std::printf(
                " %12.0f",
                megabytes(plan_of(options, options.model, batch, context, 0).component_bytes(Component::KvCache)));
        std::printf("\n");
    }
    std::printf("\n");
}

void print_activations(const Options& options) {
    constexpr int32_t kTokens = 2048;
    ModelConfig kept = options.model, recomputed = options.model;
    kept.recompute_activations = false;
    recomputed.recompute_activations = true;
    const MemoryPlan first = plan_of(options, kept, 1, kTokens, kTokens),
                     second = plan_of(options, recomputed, 1, kTokens, kTokens);
    std::printf("activations of %d tokens in one chunk, MB\n%-24s %12s %12s\n", kTokens, "", "kept", "recomputed");
    for (const PlanEntry& entry : first.entries)
        if (entry.component == Component::Activations)
            std::printf("  %-22s %12.2f %12.2f\n", entry.name.c_str(), megabytes(entry.bytes),
                        megabytes(entry_bytes(second, {entry.name})));
    for (const Component component : {Component::Activations, Component::Logits})
        std::printf("%-24s %12.2f %12.2f\n", component_name(component), megabytes(first.component_bytes(component)),
                    megabytes(second.component_bytes(component)));
    std::printf("\n");
}

}  // namespace

void print_model_tables(const Options& options) {
    print_weights(options);
    print_kv_cache(options);
    print_activations(options);
}

}  // namespace tinyllm::bench
