// How the decode kernels split the sum over k. The order of summation follows from here, so nothing in this file may
// depend on the number of tokens or on the device.
//
// Three levels:
//   K block   128 consecutive inputs.
//   K slice   one of kKSlices = 16 interleaved sets of K blocks: slice s has the K blocks s, s + 16, s + 32, ...
//             Sliced-K: where tokens are few, each consumer warp of a block sums one slice.
//   K split   one of k_splits runs of consecutive K slices.
//             Split-K: where tokens are many, each block sums one split, and the partial sums go through memory.
// With int8 weights the tensor cores sum one group, or the part of it that lies in one K block, in one chain from zero:
//     k_slice = fma(chain, scale, k_slice) over its K blocks and their groups
// With 16-bit weights they sum the whole K slice in one chain. Then
//     y = sum over the K splits (sum over the K slices of the split)
// All sums run in ascending order.
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

// The number of K splits of a weight [n, k]: 1, 2, 4 or 8.
inline int32_t decode_k_splits(int32_t n, int32_t k) {
    constexpr double kBlocks = 132;     // at a time, on one GPU for all: a model gives the same bits on every GPU
    constexpr double kBlockRows = 256;  // weight rows of a block
    const double row_blocks = static_cast<double>((n + 255) / 256);
    int32_t best = 1;
    double best_cost = 0;
    for (int32_t k_splits = 1; k_splits <= kMaxKSplits; k_splits *= 2) {
        // The cost of a round of blocks without split-K is 1. The partial sums of 32 tokens are added to it; a byte of
        // them costs half as much as a byte of weights, because they stay in the L2.
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

// Most tokens of one launch of the kernels for many tokens, and so most that have partial sums at a time.
constexpr int kManyTokens = 64;

// Bytes of Scratch::data that linear_decode needs for a weight [n, k].
inline int64_t linear_decode_scratch_bytes(int32_t n, int32_t k, int64_t tokens) {
    const int64_t n_padded = (int64_t{n} + kTileRows - 1) / kTileRows * kTileRows;
    const int64_t k_splits = decode_k_splits(n, k);
    return k_splits == 1 ? 0 : k_splits * std::min<int64_t>(tokens, kManyTokens) * n_padded * 4;
}

}  // namespace tinyllm::cuda
