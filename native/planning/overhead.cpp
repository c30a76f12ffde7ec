#include "planning/overhead.h"

#include <algorithm>

#include "backends/registry.h"
#include "config/engine_config.h"
#include "core/dtype.h"
#include "model/decoder_spec.h"
#include "planning/plan.h"

namespace tinyllm {

namespace {

// Scales that are chosen at a time, at most; `elements` is how many weights a load block holds, for whole tensors at a
// time INT64_MAX.
uint64_t scale_bytes(const DecoderSpec& spec, int64_t elements) {
    int64_t most = 0;
    for (const MatrixSpec* matrix : spec.matrices()) {
        if (matrix->quantization != QuantizationType::W8A16) continue;
        const int64_t k = matrix->k, groups = (k + matrix->group_length - 1) / matrix->group_length;
        for (const TensorSpec& tensor : matrix->tensors)
            most = std::max(most, std::min<int64_t>(tensor.num_rows, elements / k) * groups);
    }
    return static_cast<uint64_t>(most) * sizeof(f16);
}

// What a GPU keeps while it quantises: scales of a block of 16-bit weights, and the vectors of loading/importance.h.
uint64_t quantizer_bytes(const DecoderSpec& spec, uint64_t block_bytes) {
    const uint64_t first_bad = sizeof(unsigned long long);
    if (spec.quantization != QuantizationType::W8A16) return first_bad;
    uint64_t inputs = 0, outputs = 0;
    for (const MatrixSpec* matrix : spec.matrices()) {
        inputs = std::max<uint64_t>(inputs, matrix->k);
        for (const TensorSpec& tensor : matrix->tensors)
            if (passes_moments(tensor.role)) outputs = std::max<uint64_t>(outputs, tensor.num_rows);
    }
    const uint64_t vectors = (2 * inputs + outputs) * sizeof(float) + spec.hidden_dim * sizeof(double);
    return first_bad + vectors + scale_bytes(spec, static_cast<int64_t>(block_bytes / sizeof(f16)));
}

}  // namespace

std::vector<OverheadEntry> overhead(const ModelConfig& model, const EngineConfig& engine) {
    const DecoderSpec spec = make_decoder_spec(model);
    if (engine.device_kind == DeviceKind::Cpu) {
        if (spec.quantization != QuantizationType::W8A16) return {};
        return {{"scales of a tensor", false, true, scale_bytes(spec, INT64_MAX)}};
    }
    const StagingSizes staging = staging_sizes(engine.device_kind);
    const uint64_t blocks = staging.load_blocks * staging.load_block;
    const uint64_t quantizer = quantizer_bytes(spec, staging.load_block);
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
