// The part of prefill attention that one warp does: the running softmax of its rows over pages in shared memory.
#pragma once

#include "backends/cuda/device/exp2.cuh"
#include "backends/cuda/device/head_tile.cuh"
#include "backends/cuda/device/mma.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/device/transpose.cuh"
#include "ops/kv_cache.h"

namespace tinyllm::cuda {

constexpr int kPrefillStages = 2;  // pages in shared memory: one in use, one on its way

template <int kHeadDim>
struct Prefill {
    using Tile = HeadTile<kHeadDim>;
    static constexpr int kWarps = 4;
    static constexpr int kThreads = kWarps * kWarpSize;
    // Each fragment of K and V that a warp loads serves this many 16-row tiles: with one, shared memory is the limit.
    static constexpr int kRowTiles = kHeadDim > 128 ? 1 : 2;
    static constexpr int kWarpRows = 16 * kRowTiles;
    static constexpr int kBlockRows = kWarps * kWarpRows;
    static constexpr int kPageBytes = Tile::bytes(kPageTokens);
    static constexpr int kSharedBytes = Tile::bytes(kBlockRows) + kPrefillStages * 2 * kPageBytes;
    static constexpr int kBlocksPerSm = kHeadDim > 128 ? 1 : 2;
};

// Running softmax of a warp over its rows. Lane 4g + t: rows 16 r + g and 16 r + g + 8 for r < kRowTiles.
template <typename T, int kHeadDim>
struct RowSoftmax {
    using P = Prefill<kHeadDim>;
    using Tile = HeadTile<kHeadDim>;
    static constexpr int kRowTiles = P::kRowTiles;
    static constexpr int kKeyTiles = kPageTokens / 8, kDimTiles = kHeadDim / 8;

    float scale;  // softmax_scale * log2 e
    int32_t window;
    int32_t first_position;  // of row g
    int lane;
    float largest[kRowTiles][2], sum[kRowTiles][2];  // sum: of this lane's columns only, until finish()
    float weighted[kRowTiles][kDimTiles][4];

    __device__ RowSoftmax(float scale, int32_t window, int32_t first_position, int lane)
        : scale(scale), window(window), first_position(first_position), lane(lane) {
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
            largest[r][0] = largest[r][1] = -INFINITY;
            sum[r][0] = sum[r][1] = 0;
#pragma unroll
            for (int i = 0; i < kDimTiles; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) weighted[r][i][j] = 0;
        }
    }

    // s = Q K^T of a page. queries: the warp's rows.
    __device__ void scores(uint32_t queries, uint32_t keys, float (&s)[kRowTiles][kKeyTiles][4]) const {
        const uint32_t query = queries + Tile::offset(lane % 16, lane / 16);
        const uint32_t key = keys + Tile::offset(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
            for (int i = 0; i < kKeyTiles; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) s[r][i][j] = 0;
#pragma unroll
        for (int step = 0; step < kHeadDim / 16; ++step) {
            uint32_t a[kRowTiles][4];
#pragma unroll
            for (int r = 0; r < kRowTiles; ++r) load_matrices(a[r], Tile::advance(query, step) + r * Tile::bytes(16));
#pragma unroll
            for (int pair = 0; pair < kKeyTiles / 2; ++pair) {
                uint32_t b[4];
                load_matrices(b, Tile::advance(key, step) + pair * Tile::bytes(16));
#pragma unroll
                for (int r = 0; r < kRowTiles; ++r) {
                    mma_m16n8k16<T>(s[r][2 * pair], a[r], b[0], b[1]);
                    mma_m16n8k16<T>(s[r][2 * pair + 1], a[r], b[2], b[3]);
                }
            }
        }
    }

    // Scores that a row does not see become -infinity. page_begin: position of the page's first token.
    __device__ void hide(int32_t page_begin, float (&s)[kRowTiles][kKeyTiles][4]) const {
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int32_t position = first_position + r * 16 + j / 2 * 8;
                const int32_t oldest = window > 0 ? position - window : -1;  // the last one that is out of sight
#pragma unroll
                for (int i = 0; i < kKeyTiles; ++i) {
                    const int32_t token = page_begin + i * 8 + lane % 4 * 2 + j % 2;
                    if (token > position || token <= oldest) s[r][i][j] = -INFINITY;
                }
            }
    }

    // Takes the scores in; they become the weights 2^(score - largest).
    __device__ void absorb(float (&s)[kRowTiles][kKeyTiles][4]) {
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float next = fmaxf(s[r][0][2 * half], s[r][0][2 * half + 1]);
#pragma unroll
                for (int i = 1; i < kKeyTiles; ++i) next = fmaxf(next, fmaxf(s[r][i][2 * half], s[r][i][2 * half + 1]));
                next = fmaxf(next, __shfl_xor_sync(kFullWarp, next, 1));
                next = fmaxf(next, __shfl_xor_sync(kFullWarp, next, 2));
                next = fmaxf(largest[r][half], next * scale);
                // A row that has seen nothing yet: any finite number keeps its sums at zero.
                const float shift = next == -INFINITY ? 0.0f : next;
                const float keep = exp2_fast(largest[r][half] - shift);
                largest[r][half] = next;
                float part = 0;
#pragma unroll
                for (int i = 0; i < kKeyTiles; ++i)
#pragma unroll
                    for (int j = 2 * half; j < 2 * half + 2; ++j) {
                        s[r][i][j] = exp2_fast(fmaf(s[r][i][j], scale, -shift));
                        part += s[r][i][j];
                    }
                sum[r][half] = fmaf(sum[r][half], keep, part);
#pragma unroll
                for (int i = 0; i < kDimTiles; ++i) {
                    weighted[r][i][2 * half] *= keep;
                    weighted[r][i][2 * half + 1] *= keep;
                }
            }
    }

    // weighted += weights V. The weights' accumulator layout is that of an A operand.
    __device__ void add_values(const float (&s)[kRowTiles][kKeyTiles][4], uint32_t values) {
        const uint32_t value = values + Tile::offset(lane % 16, lane / 16);
#pragma unroll
        for (int step = 0; step < kPageTokens / 16; ++step) {
            uint32_t a[kRowTiles][4];
#pragma unroll
            for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float (&from)[4] = s[r][2 * step + i / 2];
                    a[r][i] = pack_pair<T>(from[i % 2 * 2], from[i % 2 * 2 + 1]);
                }
#pragma unroll
            for (int pair = 0; pair < kDimTiles / 2; ++pair) {
                uint32_t b[4];
                load_matrices_transposed(b, Tile::advance(value, pair) + step * Tile::bytes(16));
#pragma unroll
                for (int r = 0; r < kRowTiles; ++r) {
                    mma_m16n8k16<T>(weighted[r][2 * pair], a[r], b[0], b[1]);
                    mma_m16n8k16<T>(weighted[r][2 * pair + 1], a[r], b[2], b[3]);
                }
            }
        }
    }

    // Writes the rows' results, T, to a tile in shared memory.
    __device__ void finish(unsigned char* tile) {
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float total = sum[r][half];
                total += __shfl_xor_sync(kFullWarp, total, 1);
                total += __shfl_xor_sync(kFullWarp, total, 2);
                const float factor = total > 0 ? 1.0f / total : 0.0f;
                const int row = r * 16 + half * 8 + lane / 4;
#pragma unroll
                for (int i = 0; i < kDimTiles; ++i)
                    *reinterpret_cast<uint32_t*>(tile + Tile::offset(row, i) + lane % 4 * 4) =
                        pack_pair<T>(weighted[r][i][2 * half] * factor, weighted[r][i][2 * half + 1] * factor);
            }
    }
};

}  // namespace tinyllm::cuda
