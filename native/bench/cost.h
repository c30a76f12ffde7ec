// What a step must move and compute at the least: the denominators of every share that is printed.
#pragma once

#include <cstdint>

#include "model/decoder_spec.h"

namespace tinyllm::bench {

// Bytes of the matrices that every step reads: all layers and the output matrix, with scales, as they lie in memory.
// An untied embedding is not among them: a step reads a row per token of it.
inline uint64_t weight_bytes(const DecoderSpec& spec, DeviceKind device) {
    uint64_t bytes = 0;
    for (const MatrixSpec* matrix : spec.matrices()) {
        if (matrix == &spec.embedding && spec.head) continue;
        const LinearLayout layout = matrix->layout(device);
        bytes += layout.weight_bytes() + layout.scale_bytes();
    }
    return bytes;
}

// Tokens that the last one of `kv_len` sees in a layer, itself included.
inline int64_t tokens_seen(const LayerSpec& layer, int64_t kv_len) {
    const int64_t window = layer.attention().shape.window;
    return window > 0 && window < kv_len ? window : kv_len;
}

// Bytes of keys and values of one token in a layer.
inline uint64_t kv_token_bytes(const DecoderSpec& spec, const LayerSpec& layer) {
    return uint64_t{2} * layer.attention().shape.kv_dim() * dtype_size(spec.dtype);
}

// Bytes of keys and values that one sequence of `kv_len` tokens makes a decode step read.
inline uint64_t kv_bytes(const DecoderSpec& spec, int64_t kv_len) {
    uint64_t bytes = 0;
    for (const LayerSpec& layer : spec.layers) bytes += tokens_seen(layer, kv_len) * kv_token_bytes(spec, layer);
    return bytes;
}

// Bytes of keys and values of `tokens` tokens in all layers.
inline uint64_t stored_kv_bytes(const DecoderSpec& spec, int64_t tokens) {
    uint64_t bytes = 0;
    for (const LayerSpec& layer : spec.layers) bytes += tokens * kv_token_bytes(spec, layer);
    return bytes;
}

// Floating-point operations of one row in a matrix.
inline double flops(const MatrixSpec& matrix) { return 2.0 * matrix.n * static_cast<double>(matrix.k); }

// Of one token in the matrices of all layers.
inline double layer_flops(const DecoderSpec& spec) {
    double sum = 0;
    for (const LayerSpec& layer : spec.layers)
        for (const MatrixSpec& matrix : layer.matrices) sum += flops(matrix);
    return sum;
}

// Of attention of one token behind which lie `kv_len` tokens, itself included: scores and weighted sums.
inline double attention_flops(const DecoderSpec& spec, int64_t kv_len) {
    double sum = 0;
    for (const LayerSpec& layer : spec.layers)
        sum += 4.0 * layer.attention().shape.q_dim() * static_cast<double>(tokens_seen(layer, kv_len));
    return sum;
}

// Of a decode step of `rows` sequences of `kv_len` tokens.
inline double decode_flops(const DecoderSpec& spec, int64_t rows, int64_t kv_len) {
    return static_cast<double>(rows) * (layer_flops(spec) + flops(spec.output()) + attention_flops(spec, kv_len));
}

// Of a prefill of `rows` tokens: matrices of all layers, causal attention, one row of logits.
inline double prefill_flops(const DecoderSpec& spec, int64_t rows) {
    double sum = static_cast<double>(rows) * layer_flops(spec) + flops(spec.output());
    for (int64_t row = 0; row < rows; ++row) sum += attention_flops(spec, row + 1);
    return sum;
}

}  // namespace tinyllm::bench
