// y of a tile of 16 weight rows for some rows of x, on the tensor cores.
//
// A group's scale multiplies the sum over the group. Instead of a second accumulator for that, the accumulator is kept
// in units of the current group's scale and is rescaled by old / new where the group changes.
#pragma once

#include "backends/cuda/device/fast_math.cuh"
#include "backends/cuda/device/mma.cuh"
#include "backends/cuda/linear_decode_ring.cuh"

namespace tinyllm {

// For 8 kColumnTiles rows of x: c[j] is the mma accumulator of rows 8j .. 8j + 7 of x.
template <int kColumnTiles>
struct TileSum {
    float c[kColumnTiles][4] = {};
    float scale[2] = {};

    // An all-zero group has scale 0 and adds nothing in any unit. At the start `scale` is 0 and so is the sum.
    __device__ void change_scale(__half2 scales) {
        constexpr float kSmallest = 0x1p-24f;  // of the positive f16
        const float next[2] = {fmaxf(__low2float(scales), kSmallest), fmaxf(__high2float(scales), kSmallest)};
        const float factor[2] = {scale[0] * reciprocal(next[0]), scale[1] * reciprocal(next[1])};
        scale[0] = next[0];
        scale[1] = next[1];
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) c[j][i] *= factor[i / 2];
        }
    }

    // Leaves the unit of scale. Rounded here and not contracted with a later addition: all kernels must agree.
    template <bool kQuantized>
    __device__ float value(int j, int i) const {
        return kQuantized ? __fmul_rn(c[j][i], scale[i / 2]) : c[j][i];
    }
};

// Adds the unit in slot `slot` of kTiles tiles; those of the next tile lie tile_slots further. `first_of_slice`: the
// sums are still empty. x_address(j, chunk) is the shared address of 16-byte chunk `chunk` (8 inputs of the unit) of
// the lane's row of x in column tile j: the lane gives row lane % 8 and chunk + lane / 8 to load_matrices().
// kManyGroups: the unit has several groups; without, its whole body is free of branches, so that conversions fill the
// gaps between mma.
template <bool kManyGroups, typename T, bool kQuantized, int kTiles, int kColumnTiles, typename Address>
__device__ void add_unit(TileSum<kColumnTiles> (&sums)[kTiles], const WeightRing<T, kQuantized>& ring, int slot,
                         int tile_slots, const DecodeWeight& weight, int32_t unit, bool first_of_slice,
                         Address&& x_address) {
    using Ring = WeightRing<T, kQuantized>;
    const auto change_scales = [&](int group) {
#pragma unroll
        for (int m = 0; m < kTiles; ++m) sums[m].change_scale(ring.scales(slot + m * tile_slots, group));
    };
    if (kQuantized && !kManyGroups && (first_of_slice || (unit * kUnit & ((1 << weight.group_shift) - 1)) == 0))
        change_scales(0);
#pragma unroll
    for (int block = 0; block < 2; ++block) {
        uint32_t words[kTiles][2][Ring::kWords];
#pragma unroll
        for (int m = 0; m < kTiles; ++m) ring.read(slot + m * tile_slots, block, words[m]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int part = 2 * block + half;  // 32 inputs: the shortest group
            if (kManyGroups && part * weight.groups_per_unit % 4 == 0) {
                const int group = part * weight.groups_per_unit / 4;
                if (unit * weight.groups_per_unit + group < weight.groups) change_scales(group);
            }
            uint32_t a[kTiles][2][4];
#pragma unroll
            for (int m = 0; m < kTiles; ++m) {
                Ring::fragment(words[m], 2 * half, a[m][0]);
                Ring::fragment(words[m], 2 * half + 1, a[m][1]);
            }
#pragma unroll
            for (int j = 0; j < kColumnTiles; ++j) {
                uint32_t b[4];
                load_matrices(b, x_address(j, 4 * part));
#pragma unroll
                for (int step = 0; step < 2; ++step) {
#pragma unroll
                    for (int m = 0; m < kTiles; ++m)
                        mma_m16n8k16<T>(sums[m].c[j], a[m][step], b[2 * step], b[2 * step + 1]);
                }
            }
        }
    }
}

}  // namespace tinyllm
