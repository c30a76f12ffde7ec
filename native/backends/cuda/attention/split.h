// Which head dimensions have tensor core kernels, and how decode attention splits a context. No CUDA headers: the
// planner computes with it too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace tinyllm::cuda {

// Head dimensions with kernels of their own in attention/decode.cu and attention/prefill.cu; all other dimensions take
// attention/any_head_dim.cu, in both phases.
constexpr int32_t kTiledHeadDims[] = {64, 80, 96, 128, 256};

inline bool has_tiled_attention(int32_t head_dim) {
    return std::find(std::begin(kTiledHeadDims), std::end(kTiledHeadDims), head_dim) != std::end(kTiledHeadDims);
}

// Decode cuts the pages that a row sees into splits that run at the same time: kMinSplitPages pages each, or more where
// that would give more than kMaxSplits splits. So the splits depend on the row's own length (and window) alone. Merging
// takes as long as some hundred positions, so a split must be longer than that (docs/kernels/attention.md).
constexpr int32_t kMinSplitPages = 8;
constexpr int32_t kMaxSplits = 32;  // a warp merges the splits of a head, one per lane

// The most splits of a row of at most `pages` visible pages.
constexpr int32_t most_splits(int32_t pages) {
    return std::min(kMaxSplits, (pages + kMinSplitPages - 1) / kMinSplitPages);
}

// Scratch for `rows` rows of at most `splits` splits.
constexpr int64_t attention_decode_scratch_bytes(int32_t rows, int32_t num_heads, int32_t head_dim, int32_t splits) {
    return splits == 1 ? 0 : int64_t{rows} * num_heads * splits * (head_dim + 2) * int64_t{sizeof(float)};
}

}  // namespace tinyllm::cuda
