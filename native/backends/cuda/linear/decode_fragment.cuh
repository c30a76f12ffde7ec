// A K block of weights in shared memory and the tensor core fragments that a lane takes from it.
//
// A K block is a tile of 16 weight rows x 128 inputs: boxes of 16 rows x 128 bytes (one of int8, two of 16-bit
// weights). The weights are the A operand of mma m16n8k16: in the packed layout a lane's 16 bytes of a row and 64-block
// are its fragments of four steps, so they go to registers without any exchange. Fragment row g is weight row 2p of
// the tile and row g + 8 is weight row 2p + 1, p = row_pair(g): a lane then holds neighbouring outputs (a gate and its
// up) and their scales in one word. The 16-byte vectors of a box row are swizzled by the row (the 128-byte
// swizzle of TMA). Together with row_pair() this makes the reads free of bank conflicts.
#pragma once

#include "backends/cuda/device/dequantize.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/linear/decode_order.h"

namespace tinyllm::cuda {

constexpr int kKBlockAlign = 1024;  // of a K block in shared memory: the swizzle goes by address

template <typename T, bool kQuantized>
class WeightFragments {
public:
    static constexpr int kBoxes = kQuantized ? 1 : 2;
    static constexpr int kBoxBytes = kTileRows * 128;
    static constexpr int kKBlockBytes = kBoxes * kBoxBytes;
    static constexpr int kGroupBytes = kTileRows * 2;  // scales of a group
    static constexpr int kWords = kQuantized ? 4 : 8;  // of a lane, row and 64-block

    __device__ WeightFragments() {
        const int lane = threadIdx.x % kWarpSize;
        const int g = lane / 4, t = lane % 4, row = 2 * row_pair(g);
        // Vector of block 0 in row `row`; in row + 1 it is this ^ 1, in block 1 (int8) ^ 4.
        const int vector = (t * kBoxes) ^ (row % 8);
        first_ = row * 128 + vector * 16;
        second_ = (row + 1) * 128 + (vector ^ 1) * 16;
    }

    // Pair of weight rows of fragment rows g and g + 8: bits 0 and 1 of g change places.
    static __device__ int row_pair(int g) { return (g & 4) | (g & 1) << 1 | (g >> 1 & 1); }

    // Where the lane's 16 bytes `piece` of row 2p + row, 64-block `block`, lie in a K block.
    __device__ uint32_t offset(int block, int row, int piece) const {
        const uint32_t at = row == 0 ? first_ : second_;
        if constexpr (kQuantized) return at ^ (block * 64);
        return (at ^ (piece * 16)) + block * kBoxBytes;
    }

    // The lane's words of 64-block `block` of the K block at `k_block`: [row 2p or 2p + 1][word].
    __device__ void read(const unsigned char* k_block, int block, uint32_t (&words)[2][kWords]) const {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
#pragma unroll
            for (int piece = 0; piece < kBoxes; ++piece) {
                const uint4 value = *reinterpret_cast<const uint4*>(k_block + offset(block, row, piece));
                words[row][4 * piece] = value.x;
                words[row][4 * piece + 1] = value.y;
                words[row][4 * piece + 2] = value.z;
                words[row][4 * piece + 3] = value.w;
            }
        }
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
    uint32_t first_, second_;  // offset() of block 0, piece 0 of the two rows
};

}  // namespace tinyllm::cuda
