// Which head dimensions have tensor core kernels, and how decode attention is cut into parts. No CUDA headers: the
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

// Decode cuts the pages that a row sees into parts that run at the same time: kMinSplitPages pages each, or more
// where that would give more than kMaxSplits parts. So the cut depends on the row's own length (and window) alone.
// Joining parts takes as long as some hundred positions: a part is worth it from there on (docs/kernels/attention.md).
constexpr int32_t kMinSplitPages = 8;
constexpr int32_t kMaxSplits = 32;  // a warp joins the parts of a head, one a lane

// Most parts that a row of at most `pages` visible pages is cut into.
constexpr int32_t most_splits(int32_t pages) {
    return std::min(kMaxSplits, (pages + kMinSplitPages - 1) / kMinSplitPages);
}

// Scratch for `rows` rows of at most `splits` parts.
constexpr int64_t attention_decode_scratch_bytes(int32_t rows, int32_t num_heads, int32_t head_dim, int32_t splits) {
    return splits == 1 ? 0 : int64_t{rows} * num_heads * splits * (head_dim + 2) * int64_t{sizeof(float)};
}

}  // namespace tinyllm::cuda
