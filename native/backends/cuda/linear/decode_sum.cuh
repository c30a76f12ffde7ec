// GEMM of one K block on the tensor cores (mma.sync), in the order of linear/decode_order.h: tiles of 16 weight rows
// times 8 kTokenTiles tokens.
#pragma once

#include "backends/cuda/device/mma.cuh"
#include "backends/cuda/linear/decode_fragment.cuh"

namespace tinyllm::cuda {

// The sums of a K slice. [j] is the mma accumulator of the tokens 8j .. 8j + 7.
template <int kTokenTiles>
struct KSliceSum {
    float chain[kTokenTiles][4] = {};
    float scaled[kTokenTiles][4] = {};

    // Ends a group whose scales are those of the lane's two weight rows.
    __device__ void end_group(__half2 scales) {
        const float scale[2] = {__low2float(scales), __high2float(scales)};
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                scaled[j][i] = fmaf(chain[j][i], scale[i / 2], scaled[j][i]);
                chain[j][i] = 0;
            }
        }
    }

    template <bool kQuantized>
    __device__ float value(int j, int i) const {
        return kQuantized ? scaled[j][i] : chain[j][i];
    }
};

// Adds a K block of kTiles tiles, which lie at k_blocks[m] in shared memory. scales(m, group) gives the lane's scales
// in group `group` of the K block, of which `groups` exist, groups_per_k_block unless the weight ends. x_address(j,
// vector) is the shared address of 16-byte vector `vector` (8 inputs of the K block) of the lane's token in token tile
// j: the lane gives token lane % 8 and vector + lane / 8 to load_matrices(). kManyGroups: groups_per_k_block > 1.
// Without it the body has no branches, so conversions fill the gaps between mma instructions.
template <bool kManyGroups, typename T, bool kQuantized, int kTiles, int kTokenTiles, typename Scales, typename Address>
__device__ void add_k_block(KSliceSum<kTokenTiles> (&sums)[kTiles], const WeightFragments<T, kQuantized>& fragments,
                            const unsigned char* const (&k_blocks)[kTiles], int groups_per_k_block, int groups,
                            Scales&& scales, Address&& x_address) {
    using Fragments = WeightFragments<T, kQuantized>;
    const auto end_group = [&](int group) {
#pragma unroll
        for (int m = 0; m < kTiles; ++m) sums[m].end_group(scales(m, group));
    };
#pragma unroll
    for (int block = 0; block < 2; ++block) {
        uint32_t words[kTiles][2][Fragments::kWords];
#pragma unroll
        for (int m = 0; m < kTiles; ++m) fragments.read(k_blocks[m], block, words[m]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int k32 = 2 * block + half;  // 32 inputs: the shortest group
            uint32_t a[kTiles][2][4];
#pragma unroll
            for (int m = 0; m < kTiles; ++m) {
                Fragments::fragment(words[m], 2 * half, a[m][0]);
                Fragments::fragment(words[m], 2 * half + 1, a[m][1]);
            }
#pragma unroll
            for (int j = 0; j < kTokenTiles; ++j) {
                uint32_t b[4];
                load_matrices(b, x_address(j, 4 * k32));
#pragma unroll
                for (int step = 0; step < 2; ++step) {
#pragma unroll
                    for (int m = 0; m < kTiles; ++m)
                        mma_m16n8k16<T>(sums[m].chain[j], a[m][step], b[2 * step], b[2 * step + 1]);
                }
            }
            // A group beyond the last has weights 0 and no scale.
            if (kManyGroups && (k32 + 1) * groups_per_k_block % 4 == 0) {
                const int group = (k32 + 1) * groups_per_k_block / 4 - 1;
                if (group < groups) end_group(group);
            }
        }
    }
    if (kQuantized && !kManyGroups) end_group(0);
}

}  // namespace tinyllm::cuda
