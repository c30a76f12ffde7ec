// What a step must move and compute at the least: the denominators of every share that is printed.
#pragma once

#include <cstdint>

#include "config/config.h"
#include "model/specs.h"
#include "model/weights.h"

namespace tinyllm::bench {

// Bytes of the matrices that every step reads: all layers and the output matrix, with scales, as they lie in memory.
// An untied embedding is not among them: a step reads a row per token of it.
inline uint64_t weight_bytes(const ModelConfig& config, DeviceKind device) {
    uint64_t bytes = 0;
    for (const LinearSpec& spec : linear_specs(config)) {
        if (spec.component == Component::Embedding && !config.tie_word_embeddings) continue;
        const LinearLayout layout = spec.layout(config, device);
        bytes += layout.weight_bytes() + layout.scale_bytes();
    }
    return bytes;
}

// Tokens that the last one of `kv_len` sees in a layer, itself included.
inline int64_t tokens_seen(const ModelConfig& config, int layer, int64_t kv_len) {
    const int64_t window = config.window(layer);
    return window > 0 && window < kv_len ? window : kv_len;
}

// Bytes of keys and values that one sequence of `kv_len` tokens makes a decode step read.
inline uint64_t kv_bytes(const ModelConfig& config, int64_t kv_len) {
    uint64_t bytes = 0;
    for (int layer = 0; layer < config.num_layers; ++layer)
        bytes += 2 * tokens_seen(config, layer, kv_len) * config.kv_dim() * dtype_size(config.dtype);
    return bytes;
}

// Floating-point operations of one token in the matrices of all layers.
inline double layer_flops(const ModelConfig& config) {
    double flops = 0;
    for (const LinearSpec& spec : linear_specs(config))
        if (spec.component == Component::Weights && spec.name != "lm_head")
            flops += 2.0 * spec.n * static_cast<double>(spec.k);
    return flops;
}

// Of a row of logits.
inline double logits_flops(const ModelConfig& config) {
    return 2.0 * config.vocab_size * static_cast<double>(config.hidden_dim);
}

// Of attention of one token behind which lie `kv_len` tokens, itself included: scores and weighted sums.
inline double attention_flops(const ModelConfig& config, int64_t kv_len) {
    double flops = 0;
    for (int layer = 0; layer < config.num_layers; ++layer)
        flops += 4.0 * config.q_dim() * static_cast<double>(tokens_seen(config, layer, kv_len));
    return flops;
}

// Of a decode step of `rows` sequences of `kv_len` tokens.
inline double decode_flops(const ModelConfig& config, int64_t rows, int64_t kv_len) {
    return static_cast<double>(rows) * (layer_flops(config) + logits_flops(config) + attention_flops(config, kv_len));
}

// Of a prefill of `rows` tokens: matrices of all layers, causal attention, one row of logits.
inline double prefill_flops(const ModelConfig& config, int64_t rows) {
    double flops = static_cast<double>(rows) * layer_flops(config) + logits_flops(config);
    for (int64_t row = 0; row < rows; ++row) flops += attention_flops(config, row + 1);
    return flops;
}

}  // namespace tinyllm::bench
