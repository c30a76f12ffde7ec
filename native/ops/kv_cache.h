// The paged KV cache: the one statement of its layout.
//
//   pool: T [num_layers, num_pages, 2 (K, V), num_kv_heads, kPageTokens, head_dim]
//
// A sequence's position p lies in page block_table[slot, p / kPageTokens], at token p % kPageTokens. Keys are stored
// after RoPE. One (page, K or V, head) is a contiguous tile [kPageTokens, head_dim].
#pragma once

#include <cstdint>

#include "config/limits.h"
#include "core/host_device.h"

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

}  // namespace tinyllm
