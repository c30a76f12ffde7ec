// How the decode kernels split the sum over k. The order of summation follows from here, so nothing in this file may
// depend on the number of rows or on the device.
//
// The inputs are cut into units of 128; slice s of kSlices has the units s, s + kSlices, s + 2 kSlices, ..; the slices
// are cut into `chunks` equal runs. With int8 weights the tensor cores sum one group, or the part of it that lies in
// one unit, in one chain from zero, and
//     slice = fma(chain, scale, slice) over its units and their groups
// With 16-bit weights they sum the whole slice in one chain. Then
//     y = sum over chunks (sum over the slices of the chunk)
// each in ascending order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/host_device.h"

namespace tinyllm::cuda {

constexpr int32_t kUnit = 128;     // inputs of a unit
constexpr int32_t kTileRows = 16;  // weight rows of a tile: one tensor core fragment
constexpr int32_t kSlices = 16;
constexpr int32_t kMaxChunks = 8;

// Walks the units of the slices first_slice .. end_slice - 1 in the order of the sum.
struct UnitWalk {
    int32_t units;
    int32_t end_slice;
    int32_t slice;
    int32_t unit;

    TL_HOST_DEVICE constexpr UnitWalk(int32_t units, int32_t first_slice, int32_t end_slice)
        : units(units), end_slice(end_slice), slice(first_slice), unit(first_slice) {
        skip_empty();
    }
    TL_HOST_DEVICE constexpr bool ended() const { return slice >= end_slice; }
    TL_HOST_DEVICE constexpr bool last_of_slice() const { return unit + kSlices >= units; }
    TL_HOST_DEVICE constexpr void advance() {
        unit += kSlices;
        skip_empty();
    }

private:
    TL_HOST_DEVICE constexpr void skip_empty() {
        if (unit < units) return;
        ++slice;
        unit = slice;
        if (slice >= units) slice = end_slice;  // so are all that follow
    }
};

// Chunks of a weight [n, k]: 1, 2, 4 or 8. Where rows are many, a chunk is a block's share of k, and the partial sums
// of the chunks go through memory.
inline int32_t decode_chunks(int32_t n, int32_t k) {
    constexpr double kBlocks = 132;     // that run at a time; a model shall give the same bits on every GPU
    constexpr double kBlockRows = 256;  // weight rows of a block
    const double row_blocks = static_cast<double>((n + 255) / 256);
    int32_t best = 1;
    double best_cost = 0;
    for (int32_t chunks = 1; chunks <= kMaxChunks; chunks *= 2) {
        // Rounds of blocks, in units of reading kBlockRows whole rows; the partial sums of 32 rows, half as dear a byte
        // as weights because they stay in the L2 cache.
        const double blocks = row_blocks * chunks;
        const double rounds = static_cast<double>(static_cast<int64_t>((blocks + kBlocks - 1) / kBlocks)) / chunks;
        const double partial_bytes = chunks == 1 ? 0 : blocks * kBlockRows * 32 * 4 * 2;
        const double cost = rounds + partial_bytes / 2 / (kBlocks * kBlockRows * k);
        if (chunks == 1 || cost < best_cost) {
            best = chunks;
            best_cost = cost;
        }
    }
    return best;
}

// Rows of x that linear_decode_many takes at a time at most: so many rows have partial sums at once.
constexpr int kManyRows = 64;

// Bytes of Scratch::data that linear_decode needs for a weight [n, k].
inline int64_t linear_decode_scratch_bytes(int32_t n, int32_t k, int64_t rows) {
    const int64_t n_padded = (int64_t{n} + kTileRows - 1) / kTileRows * kTileRows;
    const int64_t chunks = decode_chunks(n, k);
    return chunks == 1 ? 0 : chunks * std::min<int64_t>(rows, kManyRows) * n_padded * 4;
}

}  // namespace tinyllm::cuda
