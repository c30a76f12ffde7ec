// The token that a row of a decode step appends to its sequence, where the QKV matrix hands it over unfinished: its
// queries and key get their norms and RoPE here, and its key and value go to the cache and into the tiles in shared
// memory that cover its position.
#pragma once

#include "backends/cuda/attention/attention.h"
#include "backends/cuda/attention/decode_warp.cuh"
#include "backends/cuda/rows/rope_head.cuh"

namespace tinyllm::cuda {

// In shared memory.
template <typename T, int kHeadDim>
struct AppendedToken {
    static constexpr int kVectors = kHeadDim / 8;  // of a row, 16 bytes each
    static_assert(kVectors <= kWarpSize);

    alignas(16) T queries[kDecodeHeads][kHeadDim];
    alignas(16) T newest[2][kHeadDim];  // key and value

    // Fills `queries` and, where `has_newest`, `newest`; all warps of the block call, then a barrier. qkv: the row's.
    __device__ void load(const DecodeRope& rope, const AttentionShape& shape, int32_t row, const T* qkv,
                         int32_t kv_head, int32_t first_head, int heads, bool has_newest) {
        const float* const angles = rope.cos_sin + int64_t{row} * rope.rotary_dim;
        const int lane = threadIdx.x % kWarpSize;
        for (int i = warp_index(); i < heads + (has_newest ? 2 : 0); i += blockDim.x / kWarpSize) {
            if (i < heads) {
                rotate_head(rope.q_norm, angles, rope.rotary_dim, qkv + (first_head + i) * kHeadDim, kHeadDim,
                            queries[i], lane);
                continue;
            }
            const int which = i - heads;
            const T* const head = qkv + (shape.num_heads + which * shape.num_kv_heads + kv_head) * kHeadDim;
            if (which == 0)
                rotate_head(rope.k_norm, angles, rope.rotary_dim, head, kHeadDim, newest[0], lane);
            else
                for (int e = lane; e < kHeadDim; e += kWarpSize) newest[1][e] = head[e];
        }
    }

    // Writes the key (which = 0) or value (1) to its row of the cache; one warp.
    __device__ void append(int which, T* target, int lane) const {
        if (lane < kVectors) reinterpret_cast<uint4*>(target)[lane] = vector(which, lane);
    }

    // The same to row `row` of a tile in shared memory.
    __device__ void put(int which, uint32_t tile, int row, int lane) const {
        if (lane < kVectors) {
            const uint4 value = vector(which, lane);
            asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(tile + HeadTile<kHeadDim>::offset(row, lane)),
                         "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w)
                         : "memory");
        }
        __syncwarp();
    }

private:
    __device__ uint4 vector(int which, int lane) const { return reinterpret_cast<const uint4*>(newest[which])[lane]; }
};

}  // namespace tinyllm::cuda
