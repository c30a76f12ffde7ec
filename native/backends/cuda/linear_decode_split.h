// How the decode kernels split the sum over k. The order of summation follows from here, so nothing in this file may
// depend on the number of rows or on the device.
//
// The inputs are cut into units of 128, the units into kSlices slices, the slices into `chunks` equal chunks. A slice
// is summed in one chain by the tensor cores; then
//     y = sum over chunks (sum over the slices of the chunk (chain over the units of the slice)),  each in ascending
//     order
#pragma once

#include <cstdint>

#include "runtime/kv_cache.h"  // TL_HOST_DEVICE

namespace tinyllm {

constexpr int32_t kUnit = 128;     // inputs of a unit
constexpr int32_t kTileRows = 16;  // weight rows of a tile: one tensor core fragment
constexpr int32_t kSlices = 16;
constexpr int32_t kMaxChunks = 8;

// First unit of a slice; slice_begin(units, kSlices) == units.
TL_HOST_DEVICE constexpr int32_t slice_begin(int32_t units, int32_t slice) {
    return static_cast<int32_t>(int64_t{units} * slice / kSlices);
}

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

}  // namespace tinyllm
