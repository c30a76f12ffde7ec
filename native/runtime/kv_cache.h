// The paged KV cache: the one statement of its layout, and the pool of its pages.
//
//   pool: T [num_layers, num_pages, 2 (K, V), num_kv_heads, kPageTokens, head_dim]
//
// A sequence's position p lies in page block_table[slot, p / kPageTokens], at token p % kPageTokens. Keys are stored
// after RoPE. One (page, K or V, head) is a contiguous tile [kPageTokens, head_dim].
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/config.h"

#if defined(__CUDACC__)
#define TL_HOST_DEVICE __host__ __device__
#else
#define TL_HOST_DEVICE
#endif

namespace tinyllm {

// Elements from a layer's start to the tile of (page, which, kv_head); which: 0 = K, 1 = V.
TL_HOST_DEVICE constexpr int64_t kv_tile_offset(int64_t page, int32_t which, int32_t kv_head, int32_t num_kv_heads,
                                                int32_t head_dim) {
    return ((page * 2 + which) * num_kv_heads + kv_head) * kPageTokens * head_dim;
}

// Elements of one layer.
constexpr int64_t kv_layer_elements(int64_t num_pages, int32_t num_kv_heads, int32_t head_dim) {
    return num_pages * 2 * num_kv_heads * kPageTokens * head_dim;
}

// Free list of pages. Not thread-safe: the engine's lock guards it.
class PagePool {
public:
    explicit PagePool(int32_t num_pages);
    int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
    int32_t num_total() const { return num_total_; }
    // Takes `count` pages and appends them to `pages`; false, taking none, if fewer are free.
    bool take(int32_t count, std::vector<int32_t>& pages);
    // Gives pages back and empties the vector.
    void give_back(std::vector<int32_t>& pages);

private:
    int32_t num_total_;
    std::vector<int32_t> free_;
};

}  // namespace tinyllm
