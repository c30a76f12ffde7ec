#include "planning/overhead.h"

#include <algorithm>

#include "backends/registry.h"
#include "core/dtype.h"
#include "planning/plan.h"

namespace tinyllm {

namespace {

// Rows and inputs of a matrix as it comes from a checkpoint.
struct Matrix {
    int64_t rows, inputs;
};

std::vector<Matrix> matrices(const ModelConfig& m) {
    return {{m.q_dim(), m.hidden_dim},          {m.kv_dim(), m.hidden_dim},         {m.hidden_dim, m.q_dim()},
            {m.intermediate_dim, m.hidden_dim}, {m.hidden_dim, m.intermediate_dim}, {m.vocab_size, m.hidden_dim}};
}

// Scales that are chosen at a time, at most; `elements` is how many weights a load block holds, for whole tensors at a
// time INT64_MAX.
uint64_t scale_bytes(const ModelConfig& m, int64_t elements) {
    int64_t most = 0;
    for (const auto& [rows, inputs] : matrices(m)) {
        const int64_t length = m.group_length(static_cast<int32_t>(inputs)), groups = (inputs + length - 1) / length;
        most = std::max(most, std::min(rows, elements / inputs) * groups);
    }
    return static_cast<uint64_t>(most) * sizeof(f16);
}

// What a GPU keeps while it quantises: scales of a block of 16-bit weights, and the vectors of loading/importance.h.
uint64_t quantizer_bytes(const ModelConfig& m, uint64_t block_bytes) {
    const uint64_t first_bad = sizeof(unsigned long long);
    if (m.quantization != QuantizationType::W8A16) return first_bad;
    const uint64_t inputs = std::max({m.hidden_dim, m.q_dim(), m.intermediate_dim});
    const uint64_t outputs = std::max({m.kv_dim(), m.hidden_dim, m.intermediate_dim});
    const uint64_t vectors = (2 * inputs + outputs) * sizeof(float) + m.hidden_dim * sizeof(double);
    return first_bad + vectors + scale_bytes(m, static_cast<int64_t>(block_bytes / sizeof(f16)));
}

}  // namespace

std::vector<OverheadEntry> overhead(const ModelConfig& model, const EngineConfig& engine) {
    if (engine.device_kind == DeviceKind::Cpu) {
        if (model.quantization != QuantizationType::W8A16) return {};
        return {{"scales of a tensor", false, true, scale_bytes(model, INT64_MAX)}};
    }
    const StagingSizes staging = staging_sizes(engine.device_kind);
    const uint64_t blocks = staging.load_blocks * staging.load_block;
    const uint64_t quantizer = quantizer_bytes(model, staging.load_block);
    const uint64_t used = make_plan(model, engine).total() + blocks + quantizer;
    return {{"pinned transfer buffers", false, false, staging.transfer},
            {"pinned load blocks of weights", false, true, blocks},
            {"load blocks of weights", true, true, blocks},
            {"scales and moments", true, true, quantizer},
            {"rounding of the pool", true, false, (staging.pool_step - used % staging.pool_step) % staging.pool_step}};
}

uint64_t plan_budget(const ModelConfig& model, const EngineConfig& engine, uint64_t free_bytes) {
    const bool on_gpu = engine.device_kind == DeviceKind::Cuda;
    const uint64_t step = staging_sizes(engine.device_kind).pool_step;
    const uint64_t usable = free_bytes / step * step;
    uint64_t loading = 0;
    for (const OverheadEntry& entry : overhead(model, engine))
        if (entry.only_loading && entry.on_device == on_gpu) loading += entry.bytes;
    return usable - std::min(usable, loading);
}

}  // namespace tinyllm
