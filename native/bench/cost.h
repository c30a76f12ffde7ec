// What a step must move and compute at the least: the denominators of every share that is printed.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/weights.h"

namespace tinyllm::bench {

// Bytes of the matrices that every step reads: all layers and the output matrix, with scales, as they lie in memory.
// An untied embedding is not among them: a step reads a row a token of it.
inline uint64_t weight_bytes(const ModelConfig& config, DeviceKind device) {
    uint64_t bytes = 0;
    for (const LinearSpec& spec : linear_specs(config)) {
        if (spec.component == Component::Embedding && !config.tie_word_embeddings) continue;
        const LinearLayout layout = spec.layout(config, device);
        bytes += layout.weight_bytes() + layout.scale_bytes();
    }
    return bytes;
}

// Bytes of keys and values that one sequence of `kv_len` tokens makes a decode step read.
inline uint64_t kv_bytes(const ModelConfig& config, int64_t kv_len) {
    uint64_t bytes = 0;
    for (int layer = 0; layer < config.num_layers; ++layer) {
        const int64_t window = config.window(layer);
        const int64_t seen = window > 0 && window < kv_len ? window : kv_len;
        bytes += 2 * seen * config.kv_dim() * dtype_size(config.dtype);
    }
    return bytes;
}

// Floating-point operations of a prefill of `rows` tokens: matrices of all layers, causal attention, one row of logits.
inline double prefill_flops(const ModelConfig& config, int64_t rows) {
    double linear = 0;
    for (const LinearSpec& spec : linear_specs(config))
        if (spec.component == Component::Weights && spec.name != "lm_head")
            linear += 2.0 * spec.n * static_cast<double>(spec.k);
    const double attention = 2.0 * config.num_layers * config.q_dim() * static_cast<double>(rows) * (rows + 1);
    return linear * rows + attention + 2.0 * config.vocab_size * static_cast<double>(config.hidden_dim);
}

}  // namespace tinyllm::bench
