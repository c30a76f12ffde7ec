// THE forward pass, written once for every device, for prefill and decode.
#pragma once

#include <vector>

#include "model/decoder_spec.h"
#include "model/weights.h"
#include "ops/ops.h"
#include "ops/planned_memory.h"

namespace tinyllm {

// All buffers of a forward pass, allocated once (plan.cpp) and shared by all layers. T is the activation type.
struct ActivationBuffers {
    explicit ActivationBuffers(const PlannedMemory& memory);

    void* hidden;           // T [max_rows, hidden_dim]: the residual stream
    void* normed;           // T [tile_rows, hidden_dim]: a norm's output, dead before `attention` is written
    void* attention;        // T [tile_rows, num_heads * head_dim]: the same memory
    void* qkv;              // T [tile_rows, qkv_dim]: dead before `ffn` is written
    void* ffn;              // T [tile_rows, intermediate_dim]: the same memory
    float* rope;            // float [max_rows, 2, rotary_dim / 2]: cos and sin
    float* logits;          // float [logits_rows, vocab_size]
    uint32_t* seen;         // bits [max_batch, ceil(vocab_size / 32)]: tokens a slot was fed
    SampledToken* sampled;  // [max_batch]
};

struct Model {
    const DecoderSpec& spec;
    const ModelWeights& weights;
    ActivationBuffers buffers;
    void* kv_cache;  // layout in ops/kv_cache.h
    int64_t num_pages;
};

// Runs all rows of `whole` through the model, tile by tile within a layer: a tile needs only the cache entries of
// itself and of tiles before it. Leaves the last residual stream in buffers.hidden.
//   whole: all rows; tiles: the same rows in tiles of at most StepShape::tile_rows; seen: see Ops::embed
void forward(Ops& ops, const Model& model, const StepBatch& whole, const std::vector<StepBatch>& tiles, uint32_t* seen);

}  // namespace tinyllm
