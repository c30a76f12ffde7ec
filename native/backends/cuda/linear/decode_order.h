// How the decode kernels split the sum over k. The order of summation follows from here, so nothing in this file may
// depend on the number of rows or on the device.
//
// The inputs are cut into K blocks of 128; K slice s of kKSlices has the K blocks s, s + kKSlices, s + 2 kKSlices, ..;
// the K slices are cut into k_splits equal runs. With int8 weights the tensor cores sum one group, or the part of it
// that lies in one K block, in one chain from zero, and
//     k_slice = fma(chain, scale, k_slice) over its K blocks and their groups
// With 16-bit weights they sum the whole K slice in one chain. Then
//     y = sum over K splits (sum over the K slices of the K split)
// each in ascending order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/host_device.h"

namespace tinyllm::cuda {

constexpr int32_t kKBlock = 128;   // inputs of a K block
constexpr int32_t kTileRows = 16;  // weight rows of a tile: one tensor core fragment
constexpr int32_t kKSlices = 16;
constexpr int32_t kMaxKSplits = 8;

// Walks the K blocks of the K slices first_k_slice .. end_k_slice - 1 in the order of the sum.
struct KBlockWalk {
    int32_t k_blocks;
    int32_t end_k_slice;
    int32_t k_slice;
    int32_t k_block;

    TL_HOST_DEVICE constexpr KBlockWalk(int32_t k_blocks, int32_t first_k_slice, int32_t end_k_slice)
        : k_blocks(k_blocks), end_k_slice(end_k_slice), k_slice(first_k_slice), k_block(first_k_slice) {
        skip_empty();
    }
    TL_HOST_DEVICE constexpr bool ended() const { return k_slice >= end_k_slice; }
    TL_HOST_DEVICE constexpr bool last_of_k_slice() const { return k_block + kKSlices >= k_blocks; }
    TL_HOST_DEVICE constexpr void advance() {
        k_block += kKSlices;
        skip_empty();
    }

private:
    TL_HOST_DEVICE constexpr void skip_empty() {
        if (k_block < k_blocks) return;
        ++k_slice;
        k_block = k_slice;
        if (k_slice >= k_blocks) k_slice = end_k_slice;  // so are all that follow
    }
};

// K splits of a weight [n, k]: 1, 2, 4 or 8. Where rows are many, a K split is a block's share of k, and the partial
// sums of the K splits go through memory.
inline int32_t decode_k_splits(int32_t n, int32_t k) {
    constexpr double kBlocks = 132;     // that run at a time; a model shall give the same bits on every GPU
    constexpr double kBlockRows = 256;  // weight rows of a block
    const double row_blocks = static_cast<double>((n + 255) / 256);
    int32_t best = 1;
    double best_cost = 0;
    for (int32_t k_splits = 1; k_splits <= kMaxKSplits; k_splits *= 2) {
        // Rounds of blocks, in units of reading kBlockRows whole rows; the partial sums of 32 tokens, half as dear a
        // byte as weights because they stay in the L2 cache.
        const double blocks = row_blocks * k_splits;
        const double rounds = static_cast<double>(static_cast<int64_t>((blocks + kBlocks - 1) / kBlocks)) / k_splits;
        const double partial_bytes = k_splits == 1 ? 0 : blocks * kBlockRows * 32 * 4 * 2;
        const double cost = rounds + partial_bytes / 2 / (kBlocks * kBlockRows * k);
        if (k_splits == 1 || cost < best_cost) {
            best = k_splits;
            best_cost = cost;
        }
    }
    return best;
}

// Rows of x that linear_decode_many takes at a time at most: so many tokens have partial sums at once.
constexpr int kManyTokens = 64;

// Bytes of Scratch::data that linear_decode needs for a weight [n, k].
inline int64_t linear_decode_scratch_bytes(int32_t n, int32_t k, int64_t tokens) {
    const int64_t n_padded = (int64_t{n} + kTileRows - 1) / kTileRows * kTileRows;
    const int64_t k_splits = decode_k_splits(n, k);
    return k_splits == 1 ? 0 : k_splits * std::min<int64_t>(tokens, kManyTokens) * n_padded * 4;
}

}  // namespace tinyllm::cuda
