// A warp's ring of weight units in shared memory: it runs ahead of the arithmetic, so that memory never waits for it.
//
// A unit is a tile of 16 weight rows x 128 inputs with its scales. With compute capability 9.0 one lane asks the copy
// engine for it; before that, every lane copies by cp.async the bytes that it will read.
//
// The weights are the A operand of mma m16n8k16: in the packed layout a lane's 16 bytes of a row and 64-block are its
// fragments of four steps, so they go to registers without any shuffling. Fragment row g is weight row 2p of the tile
// and row g + 8 is weight row 2p + 1, p = row_pair(g): a lane then holds neighbouring outputs (a gate and its up) and
// their scales in one word. A row of a unit's block takes 128 bytes; its 16-byte chunks are swizzled by the row, which
// together with row_pair() makes the reads free of bank conflicts.
#pragma once

#include <cuda.h>

#include "backends/cuda/device/async_copy.cuh"
#include "backends/cuda/device/dequantize.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/device/tensor_copy.cuh"
#include "backends/cuda/linear_decode_split.h"

namespace tinyllm {

// A weight as the decode kernels read it.
struct DecodeWeight {
    const uint8_t* data;   // int8 or T [n_padded, k_padded], packed
    const __half* scales;  // [groups, n_padded], null where not quantised
    const float* bias;     // [n] or null
    int32_t n;
    int32_t k;
    int32_t k_padded;
    int32_t num_tiles;        // n_padded / 16
    int32_t units;            // ceil(k_padded / 128)
    int32_t groups;           // of a row
    int32_t group_shift;      // log2 of the inputs of a group; 30 where a row is one group
    int32_t groups_per_unit;  // 1, 2 or 4; 1 where a group spans several units
    int32_t chunks;
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kHasCopyEngine = true;
#else
constexpr bool kHasCopyEngine = false;
#endif

constexpr int kRingAlign = 1024;  // of the data of a slot: the swizzle goes by address
constexpr int kMaxDepth = 4;

template <typename T, bool kQuantized>
class WeightRing {
public:
    static constexpr int kBoxes = kQuantized ? 1 : 2;  // of 128 bytes a row
    static constexpr int kBoxBytes = kTileRows * 128;
    static constexpr int kDataBytes = kBoxes * kBoxBytes;
    static constexpr int kGroupBytes = kTileRows * 2;  // scales of a group
    static constexpr int kWords = kQuantized ? 4 : 8;  // of a lane, row and 64-block

    // Of a slot: data, scales and the barrier.
    static __host__ __device__ int32_t slot_bytes(const DecodeWeight& weight) {
        return kDataBytes + scale_bytes(weight) + 8;
    }

    // Slots first .. first + count - 1 of the `slots` that lie in `shared` (kRingAlign-aligned): all data, then all
    // scales, then all barriers. `map` describes the weight in boxes of 16 rows x 128 bytes to the copy engine. Where
    // `owner`, the warp makes the barriers of its slots.
    __device__ WeightRing(const DecodeWeight& weight, const CUtensorMap& map, unsigned char* shared, int slots,
                          int first, int count, bool owner)
        : weight_(weight), map_(map) {
        const int lane = threadIdx.x % kWarpSize;
        const int g = lane / 4, t = lane % 4, row = 2 * row_pair(g);
        data_ = shared + first * kDataBytes;
        scales_ = shared + slots * kDataBytes + first * scale_bytes(weight);
        barriers_ = shared_address(shared + slots * (kDataBytes + scale_bytes(weight))) + first * 8;
        // Chunk of block 0 in row `row`; in row + 1 it is this ^ 1, in block 1 (int8) ^ 4.
        const int chunk = (t * kBoxes) ^ (row % 8);
        read_ = row * 128 + chunk * 16;
        next_row_ = (chunk ^ 1) * 16 - chunk * 16 + 128;
        if (kHasCopyEngine && owner && lane == 0) {
#pragma unroll 1
            for (int slot = 0; slot < count; ++slot) init_barrier(barriers_ + slot * 8, 1);
            publish_barriers();
        }
        __syncwarp();
    }

    // Pair of weight rows of fragment rows g and g + 8: bits 0 and 1 of g change places.
    static __device__ int row_pair(int g) { return (g & 4) | (g & 1) << 1 | (g >> 1 & 1); }

    // Requests a unit of a tile into a slot that no lane reads any more.
    __device__ void request(int slot, int32_t tile, int32_t unit) const {
        const int32_t group = unit * kUnit >> weight_.group_shift;
        const uint32_t data = shared_address(data_ + slot * kDataBytes);
        const uint32_t scales = shared_address(scales_ + slot * scale_bytes(weight_));
        const int lane = threadIdx.x % kWarpSize;
        if constexpr (kHasCopyEngine) {
            if (!elect_lane()) return;
            const uint32_t barrier = barriers_ + slot * 8;
            const int32_t groups = kQuantized ? min(weight_.groups_per_unit, weight_.groups - group) : 0;
            arrive_expecting(barrier, kDataBytes + groups * kGroupBytes);
#pragma unroll
            for (int box = 0; box < kBoxes; ++box)
                copy_box(data + box * kBoxBytes, map_, unit * kUnit + box * 64, tile * kTileRows, barrier);
#pragma unroll 1
            for (int32_t i = 0; i < groups; ++i)
                copy_bytes(scales + i * kGroupBytes,
                           weight_.scales + (int64_t{group + i} * weight_.num_tiles + tile) * kTileRows, kGroupBytes,
                           barrier);
        } else {
            const int g = lane / 4, t = lane % 4;
            const int32_t row = tile * kTileRows + 2 * row_pair(g);
#pragma unroll
            for (int block = 0; block < 2; ++block) {
#pragma unroll
                for (int piece = 0; piece < 2 * kBoxes; ++piece) {
                    const int32_t column = unit * kUnit + block * 64 + t * 16 + piece / 2 * 8;
                    const int64_t at =
                        int64_t{row + piece % 2} * weight_.k_padded + min(column, weight_.k_padded - 16 / kBoxes);
                    copy_async_16(data + address(block, piece % 2, piece / 2), weight_.data + at * kBoxes,
                                  column < weight_.k_padded ? 16 : 0);
                }
            }
            if (kQuantized && t < weight_.groups_per_unit) {
                const int64_t tiles_before = int64_t{min(group + t, weight_.groups - 1)} * weight_.num_tiles;
                copy_async_4(scales + t * kGroupBytes + row_pair(g) * 4,
                             weight_.scales + tiles_before * kTileRows + row);
            }
        }
    }

    // Waits for the unit in a slot. `parity` counts the turns of the ring. Before compute capability 9.0 all but the
    // last `pending` groups of copies are waited for instead.
    __device__ void wait(int slot, uint32_t parity, int pending) const {
        if constexpr (kHasCopyEngine) {
            wait_for_phase(barriers_ + slot * 8, parity);
        } else {
            wait_for_copies(pending);
            __syncwarp();  // scales come by way of other lanes
        }
    }

    // The lane's words of 64-block `block`: [row 2p or 2p + 1][word].
    __device__ void read(int slot, int block, uint32_t (&words)[2][kWords]) const {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
#pragma unroll
            for (int piece = 0; piece < kBoxes; ++piece) {
                const unsigned char* source = data_ + slot * kDataBytes + address(block, row, piece);
                const uint4 value = *reinterpret_cast<const uint4*>(source);
                words[row][4 * piece] = value.x;
                words[row][4 * piece + 1] = value.y;
                words[row][4 * piece + 2] = value.z;
                words[row][4 * piece + 3] = value.w;
            }
        }
    }

    // Scales of the lane's two rows in group `group` of the unit, which must exist.
    __device__ __half2 scales(int slot, int group) const {
        const int pair = row_pair(threadIdx.x % kWarpSize / 4);
        const unsigned char* source = scales_ + slot * scale_bytes(weight_) + group * kGroupBytes;
        return reinterpret_cast<const __half2*>(source)[pair];
    }

    // A fragment of step `step` (16 inputs) of a block.
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
    // Where the lane's 16 bytes `piece` of row 2p + row, 64-block `block`, lie in the data of a slot.
    __device__ uint32_t address(int block, int row, int piece) const {
        const uint32_t at = read_ + row * next_row_;
        if constexpr (kQuantized) return at ^ (block * 64);
        return (at ^ (piece * 16)) + block * kBoxBytes;
    }

    static __host__ __device__ int32_t scale_bytes(const DecodeWeight& weight) {
        return kQuantized ? weight.groups_per_unit * kGroupBytes : 0;
    }

    const DecodeWeight& weight_;
    const CUtensorMap& map_;
    unsigned char* data_;
    unsigned char* scales_;
    uint32_t barriers_;
    uint32_t read_;     // address() of block 0, row 0, piece 0
    int32_t next_row_;  // from there to row 1
};

}  // namespace tinyllm
