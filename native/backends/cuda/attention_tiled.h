// Attention on the tensor cores: what attention.cu chooses from besides attention_simple.h.
#pragma once

#include <algorithm>
#include <iterator>
#include <type_traits>

#include "backends/cuda/attention.h"
#include "backends/cuda/runtime/device_info.h"

namespace tinyllm {

// Head dimensions with kernels of their own in attention_decode.cu and attention_prefill.cu; all other dimensions take
// attention_simple.cu, in both phases.
constexpr int32_t kTiledHeadDims[] = {64, 80, 96, 128, 256};

inline bool has_tiled_attention(int32_t head_dim) {
    return std::find(std::begin(kTiledHeadDims), std::end(kTiledHeadDims), head_dim) != std::end(kTiledHeadDims);
}

// Calls body(std::integral_constant<int, head_dim>{}). PRECOND: has_tiled_attention(head_dim).
template <typename Body>
void with_head_dim(int32_t head_dim, Body&& body) {
    switch (head_dim) {
        case 64:
            return body(std::integral_constant<int, 64>{});
        case 80:
            return body(std::integral_constant<int, 80>{});
        case 96:
            return body(std::integral_constant<int, 96>{});
        case 128:
            return body(std::integral_constant<int, 128>{});
        default:
            return body(std::integral_constant<int, 256>{});
    }
}

// Decode cuts the pages that a row sees into parts that run at the same time: kMinSplitPages pages each, or more
// where that would give more than kMaxSplits parts. So the cut depends on the row's own length (and window) alone.
// Joining parts takes as long as some hundred positions: a part is worth it from there on (docs/kernels/attention.md).
constexpr int32_t kMinSplitPages = 8;
constexpr int32_t kMaxSplits = 32;  // a warp joins the parts of a head, one a lane

// Most parts that a row of at most `pages` visible pages is cut into.
constexpr int32_t most_splits(int32_t pages) {
    return std::min(kMaxSplits, (pages + kMinSplitPages - 1) / kMinSplitPages);
}

// Shared memory that a block of the kernel takes; a device that has less takes attention_simple.cu.
int32_t attention_decode_shared_bytes(int32_t head_dim);
int32_t attention_prefill_shared_bytes(int32_t head_dim);

// As attention_cuda for Phase::Decode. PRECOND: has_tiled_attention(shape.head_dim), and scratch has
// attention_decode_scratch_bytes().
void attention_decode_cuda(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch,
                           const AttentionShape& shape, DType activation, const void* qkv, const KvLayer& kv,
                           void* out);

// Scratch for `rows` rows of at most `splits` parts.
constexpr int64_t attention_decode_scratch_bytes(int32_t rows, int32_t num_heads, int32_t head_dim, int32_t splits) {
    return splits == 1 ? 0 : int64_t{rows} * num_heads * splits * (head_dim + 2) * int64_t{sizeof(float)};
}

// As attention_cuda for Phase::Prefill. PRECOND: has_tiled_attention(shape.head_dim).
void attention_prefill_cuda(cudaStream_t cuda_stream, const StepBatch& batch, const AttentionShape& shape,
                            DType activation, const void* qkv, const KvLayer& kv, void* out);

}  // namespace tinyllm
