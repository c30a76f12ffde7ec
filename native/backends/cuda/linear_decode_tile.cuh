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
#include "backends/cuda/device/reduce.cuh"
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

// The units of one slice of k of every tile_step-th tile, brought one after the other to a ring in shared memory. Every
// lane copies the very bytes that it will read, so that no barrier is needed.
template <typename T, bool kQuantized>
class WeightStream {
public:
    static constexpr int kWords = kQuantized ? 4 : 8;  // of a lane, row and unit
    static constexpr int kElementBytes = kQuantized ? 1 : 2;
    static constexpr int kDataBytes = kTileRows * kUnit * kElementBytes;

    // Of a slot: weights, then a word of scales a lane for every 32 inputs that may have their own.
    static __host__ __device__ int32_t slot_bytes(int32_t group_shift) {
        return kDataBytes + (kQuantized ? kWarpSize * 4 * (group_shift == 0 ? 2 : 1) : 0);
    }

    __device__ WeightStream(const DecodeWeight& weight, int32_t slice, int32_t first_tile, int32_t tile_step, int lane)
        : weight_(weight), first_unit_(slice_begin(weight.units, slice)), end_unit_(slice_begin(weight.units, slice + 1)) {
        const int g = lane / 4, t = lane % 4;
        const int32_t num_tiles = first_tile < weight.num_tiles ? (weight.num_tiles - 1 - first_tile) / tile_step + 1 : 0;
        left_ = num_tiles * (end_unit_ - first_unit_);
        unit_ = first_unit_;
        row_ = first_tile * kTileRows + 2 * g;
        row_step_ = tile_step * kTileRows;
        row_bytes_ = weight.units * (kUnit * kElementBytes);
        source_ = weight.data + int64_t{row_} * row_bytes_ + (first_unit_ * kUnit + t * 16) * kElementBytes;
    }

    __device__ bool done() const { return left_ == 0; }

    // Requests the next unit, if any is left, into a slot (its address plus 16 lane).
    __device__ void request(uint32_t slot, uint32_t scale_slot) {
        if (left_ == 0) return;
        --left_;
#pragma unroll
        for (int piece = 0; piece < kElementBytes; ++piece) {
            copy_async_16(slot + piece * 512, source_ + piece * 16);
            copy_async_16(slot + (kElementBytes + piece) * 512, source_ + row_bytes_ + piece * 16);
        }
        if (kQuantized && starts_group(unit_)) {
            const int32_t n_padded = weight_.num_tiles * kTileRows, group = (2 * unit_) >> weight_.group_shift;
            copy_async_4(scale_slot, weight_.scales + (group * n_padded + row_));
            if (weight_.group_shift == 0)
                copy_async_4(scale_slot + kWarpSize * 4,
                             weight_.scales + (min(group + 1, weight_.last_group) * n_padded + row_));
        }
        source_ += kUnit * kElementBytes;
        if (++unit_ == end_unit_) {
            source_ += int64_t{row_step_} * row_bytes_ - (end_unit_ - first_unit_) * (kUnit * kElementBytes);
            row_ += row_step_;
            unit_ = first_unit_;
        }
    }

    __device__ bool starts_group(int32_t unit) const {
        return unit == first_unit_ || ((2 * unit) & ((1 << weight_.group_shift) - 1)) == 0;
    }

    // The words of the lane: [row 2g or 2g + 1][word]. `slot` plus 16 lane.
    static __device__ void read(const unsigned char* slot, uint32_t (&words)[2][kWords]) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
#pragma unroll
            for (int piece = 0; piece < kElementBytes; ++piece) {
                const uint4 value = *reinterpret_cast<const uint4*>(slot + (row * kElementBytes + piece) * 512);
                words[row][piece * 4] = value.x;
                words[row][piece * 4 + 1] = value.y;
                words[row][piece * 4 + 2] = value.z;
                words[row][piece * 4 + 3] = value.w;
            }
        }
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

private:
    const DecodeWeight& weight_;
    const int32_t first_unit_, end_unit_;
    int32_t left_, unit_, row_, row_step_, row_bytes_;
    const uint8_t* source_;
};

// y of one tile for 8 kColumnTiles rows of x, as mma accumulators, in units of `scale`.
template <int kColumnTiles>
struct TileSum {
    float c[kColumnTiles][4] = {};
    float scale[2] = {};

    // An all-zero group has scale 0 and adds nothing in any unit. At the start `scale` is 0 and so is the sum.
    __device__ void change_scale(__half2 scales) {
        constexpr float kSmallest = 0x1p-24f;  // of the positive f16
        const float next[2] = {fmaxf(__low2float(scales), kSmallest), fmaxf(__high2float(scales), kSmallest)};
        const float factor[2] = {__fdividef(scale[0], next[0]), __fdividef(scale[1], next[1])};
        scale[0] = next[0];
        scale[1] = next[1];
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) c[j][i] *= factor[i / 2];
        }
    }

    // Leaves the unit. Not contracted with a later addition: both kernels must round here.
    template <bool kQuantized>
    __device__ float value(int j, int i) const {
        return kQuantized ? __fmul_rn(c[j][i], scale[i / 2]) : c[j][i];
    }
};

}  // namespace tinyllm
