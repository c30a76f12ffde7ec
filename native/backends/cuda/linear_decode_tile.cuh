// The inner part that the decode kernels share: a warp streams tiles of 16 weight rows x 64 inputs through a ring in
// shared memory and multiplies them with up to 64 rows of x on the tensor cores.
//
// The weights are the A operand: in the packed layout a lane's 16 bytes of a row are its fragments of four k16 steps, so
// they go to registers without any shuffling. Fragment row g is weight row 2g of the tile and fragment row g + 8 is row
// 2g + 1: a lane then holds neighbouring outputs (a gate and its up), and their scales in one word.
//
// A group's scale multiplies the sum over the group. Instead of a second accumulator for that, the accumulator is kept
// in units of the current group's scale and is rescaled by old / new where the group changes.
#pragma once

#include "backends/cuda/device/async_copy.cuh"
#include "backends/cuda/device/dequantize.cuh"
#include "backends/cuda/device/mma.cuh"
#include "backends/cuda/linear_decode_split.h"

namespace tinyllm {

struct DecodeWeight {
    const uint8_t* data;   // int8 or T, packed
    const __half* scales;  // [groups, n_padded], null where not quantised
    const float* bias;     // [n] or null
    int32_t n;
    int32_t k;
    int32_t num_tiles;    // n_padded / 16
    int32_t units;        // k_padded / 64
    int32_t group_shift;  // log2 of the group length in blocks of 32 inputs; 30 where a row is one group
    int32_t last_group;
    int32_t chunks;
#ifdef TL_TRACE
    int trace = 0;
#endif
};

template <typename T, bool kQuantized>
struct WeightRing {
    static constexpr int kWords = kQuantized ? 4 : 8;  // of a lane, row and unit
    static constexpr int kElementBytes = kQuantized ? 1 : 2;
    static constexpr int kDataBytes = kTileRows * kUnit * kElementBytes;
    static constexpr int kScaleBytes = kQuantized ? 2 * 8 * 4 : 0;  // [32-block of the unit][g] pairs of f16
    static constexpr int kSlotBytes = kDataBytes + kScaleBytes;

    // Requests a unit of a tile into a slot.
    static __device__ void request(const DecodeWeight& weight, int32_t tile, int32_t unit, uint32_t slot, int lane) {
        const int g = lane / 4, t = lane % 4;
#ifdef TL_TILED
        const uint8_t* source = weight.data + (int64_t{tile} * weight.units + unit) * kDataBytes +
                                (2 * g * kUnit + t * 16) * kElementBytes;
        const int64_t next_row = kUnit * kElementBytes;
#else
        const int64_t next_row = int64_t{weight.units} * (kUnit * kElementBytes);
        const uint8_t* source =
            weight.data + (tile * kTileRows + 2 * g) * next_row + (unit * kUnit + t * 16) * kElementBytes;
#endif
#pragma unroll
        for (int piece = 0; piece < kElementBytes; ++piece) {
            copy_async_16(slot + piece * 512 + lane * 16, source + piece * 16);
            copy_async_16(slot + (kElementBytes + piece) * 512 + lane * 16, source + next_row + piece * 16);
        }
        if (kQuantized && t <= (weight.group_shift == 0 ? 1 : 0)) {
            const int32_t group = min((2 * unit + t) >> weight.group_shift, weight.last_group);
            copy_async_4(slot + kDataBytes + (t * 8 + g) * 4,
                         weight.scales + int64_t{group} * weight.num_tiles * kTileRows + tile * kTileRows + 2 * g);
        }
    }

    // The words of the lane: [row 2g or 2g + 1][word].
    static __device__ void read(const unsigned char* slot, int lane, uint32_t (&words)[2][kWords]) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
#pragma unroll
            for (int piece = 0; piece < kElementBytes; ++piece) {
                const uint4 value =
                    *reinterpret_cast<const uint4*>(slot + (row * kElementBytes + piece) * 512 + lane * 16);
                words[row][piece * 4] = value.x;
                words[row][piece * 4 + 1] = value.y;
                words[row][piece * 4 + 2] = value.z;
                words[row][piece * 4 + 3] = value.w;
            }
        }
    }

    static __device__ float2 scales(const unsigned char* slot, int lane, int block) {
        return __half22float2(*reinterpret_cast<const __half2*>(slot + kDataBytes + (block * 8 + lane / 4) * 4));
    }

    // A fragment of k16 step `step` of the unit.
    static __device__ void fragment(const uint32_t (&words)[2][kWords], int step, uint32_t (&a)[4]) {
        if constexpr (kQuantized) {
            int8_to_float16<T>(words[0][step], a[0], a[2]);
            int8_to_float16<T>(words[1][step], a[1], a[3]);
        } else {
            a[0] = words[0][2 * step];
            a[1] = words[1][2 * step];
            a[2] = words[0][2 * step + 1];
            a[3] = words[1][2 * step + 1];
        }
    }
};

// y of one tile for 8 kColumnTiles rows of x, as mma accumulators, in units of `scale`.
template <int kColumnTiles>
struct TileSum {
    float c[kColumnTiles][4] = {};
    float scale[2] = {};

    __device__ void change_scale(float2 next) {
        // An all-zero group has scale 0 and adds nothing in any unit. At the start `scale` is 0 and so is the sum.
        const float factor0 = next.x != 0 ? __fdividef(scale[0], next.x) : 1.0f;
        const float factor1 = next.y != 0 ? __fdividef(scale[1], next.y) : 1.0f;
        if (next.x != 0) scale[0] = next.x;
        if (next.y != 0) scale[1] = next.y;
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) {
            c[j][0] *= factor0;
            c[j][1] *= factor0;
            c[j][2] *= factor1;
            c[j][3] *= factor1;
        }
    }

    // Leaves the unit. Not contracted with a later addition: both kernels must round here.
    template <bool kQuantized>
    __device__ float value(int j, int i) const {
        return kQuantized ? __fmul_rn(c[j][i], scale[i / 2]) : c[j][i];
    }
};

}  // namespace tinyllm
