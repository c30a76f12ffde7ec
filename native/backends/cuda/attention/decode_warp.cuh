// What one warp of decode attention does: tiles of 16 positions through a pipeline in shared memory, and the
// running softmax over them for up to kDecodeHeads query heads (Milakov and Gimelshein, 2018).
#pragma once

#include "backends/cuda/attention/merge.cuh"
#include "backends/cuda/device/head_tile.cuh"
#include "backends/cuda/device/mma.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/device/transpose.cuh"
#include "ops/kv_cache.h"

namespace tinyllm::cuda {

constexpr int kDecodeHeads = 8;              // query heads of a block: the n of m16n8k16
constexpr int kDecodeTileTokens = 16;        // positions of a tile: its m
constexpr int kDecodeBlockBytes = 96 << 10;  // pipelines of a block: two fit on an SM, and one on the smallest GPU

template <int kHeadDim>
struct Decode {
    using Tile = HeadTile<kHeadDim>;
    static constexpr int kWarps = kHeadDim > 128 ? 4 : 8;
    static constexpr int kThreads = kWarps * kWarpSize;
    static constexpr int kStep = kWarps * kDecodeTileTokens;  // positions from one tile of a warp to its next
    static constexpr int kTileBytes = Tile::bytes(kDecodeTileTokens);
    static constexpr int kStages = kDecodeBlockBytes / kWarps / kTileBytes;  // one tile each, keys and values apart
    static constexpr int kPipelineBytes = kStages * kTileBytes;              // of a warp
    static constexpr int kSharedBytes = kWarps * kPipelineBytes;
    static constexpr int kAhead = (kStages + 1) / 2;  // pairs of tiles that are requested before the first is used
    using Results = WarpResults<kWarps, kDecodeHeads, kHeadDim>;
    static_assert(kPipelineBytes >= kDecodeHeads * Results::kPitch * 4, "a warp's sums take the place of its pipeline");
    static_assert(kSharedBytes >= SplitResults<kHeadDim>::shared_floats(kWarps, kDecodeHeads) * 4,
                  "space to merge the splits");
};

// Tiles of keys and values on their way to one warp, in the order of their use: keys, values, keys, ...
template <typename T, int kHeadDim>
struct TilePipeline {
    using D = Decode<kHeadDim>;
    using Tile = HeadTile<kHeadDim>;

    const T* cache;
    const int32_t* pages;  // the sequence's row of the block table
    int32_t kv_head, num_kv_heads;
    int32_t begin, end;  // visible positions of the split
    int32_t cached_end;  // those from here on are not in the cache: their rows become zero
    uint32_t tiles;
    int lane;

    __device__ uint32_t tile(int stage) const { return tiles + stage * D::kTileBytes; }
    static __device__ int next(int stage) { return stage + 1 == D::kStages ? 0 : stage + 1; }

    // Requests the keys (which = 0) or values (1) of the positions from `token` on; an empty group beyond the split.
    __device__ void request(int32_t token, int which, int stage) const {
        if (token < end) {
            const T* source = cache +
                              kv_tile_offset(pages[token / kPageTokens], which, kv_head, num_kv_heads, kHeadDim) +
                              token % kPageTokens * kHeadDim;
            if (token >= begin && token + kDecodeTileTokens <= cached_end)
                Tile::template request<kDecodeTileTokens, kWarpSize>(tile(stage), source, kHeadDim, lane);
            else
                Tile::template request_valid<kDecodeTileTokens, kWarpSize>(tile(stage), source, kHeadDim, begin - token,
                                                                           cached_end - token, lane);
        }
        commit_copies();
    }
};

// Running softmax of one warp over its tiles. Lane 4g + t: heads 2t and 2t + 1.
template <typename T, int kHeadDim>
struct WarpSoftmax {
    using D = Decode<kHeadDim>;
    using Tile = HeadTile<kHeadDim>;
    static constexpr int kSteps = kHeadDim / 16;

    uint32_t query[kSteps][2];  // B fragments of Q^T
    float scale;                // softmax_scale * log2 e
    float largest[2] = {-INFINITY, -INFINITY};
    float sum[2] = {};               // of this lane's positions only, until finish()
    float weighted[kSteps][4] = {};  // O^T: dimensions 16 i + g and 16 i + g + 8

    // queries: T [heads, kHeadDim]; the heads that are missing to kDecodeHeads are zero.
    __device__ void load_queries(const T* queries, int heads, int lane) {
        const int head = lane / 4;
        const uint32_t* source = reinterpret_cast<const uint32_t*>(queries + head * kHeadDim) + lane % 4;
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
            query[i][0] = head < heads ? source[i * 8] : 0;
            query[i][1] = head < heads ? source[i * 8 + 4] : 0;
        }
    }

    // s = q . k of the tile: (position g, head 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
    __device__ void scores(uint32_t keys, int lane, float (&s)[4]) const {
        const uint32_t first = keys + Tile::offset(lane % 16, lane / 16);
        float odd[4] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i) s[i] = 0;
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
            uint32_t a[4];
            load_matrices(a, Tile::advance(first, i));
            mma_m16n8k16<T>(i % 2 == 0 ? s : odd, a, query[i][0], query[i][1]);  // two chains halve the latency
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) s[i] += odd[i];
    }

    // Takes a tile's scores in; positions outside [begin, end) of the tile do not count. PRECOND: one does.
    // p: P^T as B fragment.
    __device__ void absorb(float (&s)[4], int begin, int end, int lane, uint32_t (&p)[2]) {
        const int low = lane / 4, high = low + 8;
        const bool low_counts = low >= begin && low < end, high_counts = high >= begin && high < end;
        float keep[2];
#pragma unroll
        for (int head = 0; head < 2; ++head) {
            s[head] = low_counts ? s[head] * scale : -INFINITY;
            s[2 + head] = high_counts ? s[2 + head] * scale : -INFINITY;
            float next = fmaxf(s[head], s[2 + head]);
#pragma unroll
            for (int offset = 4; offset < kWarpSize; offset *= 2)
                next = fmaxf(next, __shfl_xor_sync(kFullWarp, next, offset));
            next = fmaxf(next, largest[head]);
            keep[head] = exp2_fast(largest[head] - next);
            largest[head] = next;
            s[head] = exp2_fast(s[head] - next);
            s[2 + head] = exp2_fast(s[2 + head] - next);
            sum[head] = sum[head] * keep[head] + (s[head] + s[2 + head]);
        }
        p[0] = transpose_matrix(pack_pair<T>(s[0], s[1]));
        p[1] = transpose_matrix(pack_pair<T>(s[2], s[3]));
#pragma unroll
        for (int i = 0; i < kSteps; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) weighted[i][j] *= keep[j % 2];
    }

    __device__ void add_values(uint32_t values, int lane, const uint32_t (&p)[2]) {
        const uint32_t first = values + Tile::offset(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
            uint32_t a[4];
            load_matrices_transposed(a, Tile::advance(first, i));
            mma_m16n8k16<T>(weighted[i], a, p[0], p[1]);
        }
    }

    // values: [heads][Results::kPitch]; stats: [heads].
    __device__ void finish(int heads, int lane, float* values, SoftmaxStats* stats) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int offset = 4; offset < kWarpSize; offset *= 2) sum[i] += __shfl_xor_sync(kFullWarp, sum[i], offset);
            const int head = lane % 4 * 2 + i;
            if (head >= heads) continue;
            if (lane / 4 == 0) stats[head] = {largest[i], sum[i]};
            float* target = values + head * D::Results::kPitch + lane / 4;
#pragma unroll
            for (int step = 0; step < kSteps; ++step) {
                target[step * 16] = weighted[step][i];
                target[step * 16 + 8] = weighted[step][2 + i];
            }
        }
    }
};

}  // namespace tinyllm::cuda
