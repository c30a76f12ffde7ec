// A weight as the decode kernels read it, and the copy of a K block to shared memory on GPUs without TMA.
#pragma once

#include <cuda.h>

#include "backends/cuda/device/async_copy.cuh"
#include "backends/cuda/linear/decode_fragment.cuh"
#include "ops/launch_hints.h"

namespace tinyllm::cuda {

struct DecodeWeight {
    const uint8_t* data;   // int8 or T [n_padded, k_padded], packed
    const __half* scales;  // [groups, n_padded], null where not quantised
    const float* bias;     // [n] or null
    int32_t n;
    int32_t k;
    int32_t k_padded;
    int32_t num_tiles;           // n_padded / 16
    int32_t k_blocks;            // ceil(k_padded / 128)
    int32_t groups;              // per row
    int32_t group_shift;         // log2 of the inputs of a group; 30 where a row is one group
    int32_t groups_per_k_block;  // 1, 2 or 4; 1 where a group spans several K blocks
    int32_t k_splits;
    LaunchHints hints;  // for the launchers
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kHasTma = true;
#else
constexpr bool kHasTma = false;
#endif

// Starts cp.async copies of one K block of a tile and of its scales to shared memory. `data` is kKBlockAlign-aligned,
// `scales` is [groups_per_k_block, 16]. All lanes of the warp that reads them call: a lane copies the weights that it
// reads itself.
template <typename T, bool kQuantized>
__device__ void copy_k_block(const WeightFragments<T, kQuantized>& fragments, const DecodeWeight& weight, int32_t tile,
                             int32_t k_block, uint32_t data, uint32_t scales) {
    using Fragments = WeightFragments<T, kQuantized>;
    const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
    const int32_t row = tile * kTileRows + 2 * Fragments::row_pair(g);
#pragma unroll
    for (int block = 0; block < 2; ++block) {
#pragma unroll
        for (int piece = 0; piece < 2 * Fragments::kBoxes; ++piece) {
            const int32_t column = k_block * kKBlock + block * 64 + t * 16 + piece / 2 * 8;
            const int64_t at =
                int64_t{row + piece % 2} * weight.k_padded + min(column, weight.k_padded - 16 / Fragments::kBoxes);
            copy_async_16(data + fragments.offset(block, piece % 2, piece / 2), weight.data + at * Fragments::kBoxes,
                          column < weight.k_padded ? 16 : 0);
        }
    }
    if (kQuantized && t < weight.groups_per_k_block) {
        const int32_t group = k_block * kKBlock >> weight.group_shift;
        const int64_t tiles_before = int64_t{min(group + t, weight.groups - 1)} * weight.num_tiles;
        copy_async_4(scales + t * Fragments::kGroupBytes + Fragments::row_pair(g) * 4,
                     weight.scales + tiles_before * kTileRows + row);
    }
}

}  // namespace tinyllm::cuda
