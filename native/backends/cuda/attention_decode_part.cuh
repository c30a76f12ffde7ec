// What a block of decode attention does with one part of a row's context (attention_decode.cu, decode_layers.cu).
#pragma once

#include <algorithm>

#include "backends/cuda/attention.h"
#include "backends/cuda/attention_decode_warp.cuh"
#include "backends/cuda/attention_merge.cuh"
#include "backends/cuda/attention_split.h"
#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/exp2.cuh"
#include "backends/cuda/rope_head.cuh"
#include "ops/ops.h"

namespace tinyllm {

struct DecodeParams {
    AttentionShape shape;
    const int32_t* positions;
    const int32_t* slots;
    const int32_t* block_table;
    int32_t pages_per_seq;
    int32_t head_groups;  // parts that share the query heads of one kv head
    int32_t splits;       // most of a row
    float* part_values;
    PartStats* part_stats;
    uint32_t* counters;  // [rows * num_kv_heads * head_groups]
};

inline int32_t decode_head_groups(const AttentionShape& shape) {
    return (shape.q_per_kv() + kDecodeHeads - 1) / kDecodeHeads;
}

// Most splits of a row of the batch.
inline int32_t decode_splits(const StepBatch& batch, int32_t window) {
    const int32_t pages = (batch.max_kv_len + kPageTokens - 1) / kPageTokens;
    // A window of w positions touches one page more than w - 1 positions fill.
    return most_splits(window > 0 ? std::min(pages, (window - 1 + kPageTokens - 1) / kPageTokens + 1) : pages);
}

// For rows first_row .. first_row + rows - 1 of the batch. scratch: attention_decode_scratch_bytes().
inline DecodeParams decode_params(const StepBatch& batch, const AttentionShape& shape, int32_t first_row, int32_t rows,
                                  int32_t splits, void* scratch, uint32_t* counters) {
    auto* values = static_cast<float*>(scratch);
    return {shape,
            batch.positions + first_row,
            batch.slots + first_row,
            batch.block_table,
            batch.pages_per_seq,
            decode_head_groups(shape),
            splits,
            values,
            reinterpret_cast<PartStats*>(values + int64_t{rows} * shape.num_heads * splits * shape.head_dim),
            counters};
}

// One part: a split of a row's context, and up to kDecodeHeads query heads of one kv head.
struct DecodePart {
    int32_t split, group, row;  // group: of query heads, [num_kv_heads * head_groups]
    int32_t slot;               // of the row; -1: padding
    int32_t kv_head, first_head, heads;

    __device__ DecodePart(const DecodeParams& params, int32_t split, int32_t group, int32_t row)
        : split(split), group(group), row(row), slot(params.slots[row]), kv_head(group / params.head_groups) {
        const int32_t q_per_kv = params.shape.num_heads / params.shape.num_kv_heads;
        const int32_t first_of_group = group % params.head_groups * kDecodeHeads;
        first_head = kv_head * q_per_kv + first_of_group;
        heads = min(kDecodeHeads, q_per_kv - first_of_group);
    }
};

// The positions that a row sees, and how they are cut.
struct RowSplits {
    int32_t begin, end;
    int32_t first_page, pages_a_split, count;

    __device__ RowSplits(int32_t position, int32_t window) {
        end = position + 1;
        begin = window > 0 ? max(0, end - window) : 0;
        first_page = begin / kPageTokens;
        const int32_t pages = position / kPageTokens - first_page + 1;
        pages_a_split = max(kMinSplitPages, (pages + kMaxSplits - 1) / kMaxSplits);
        count = (pages + pages_a_split - 1) / pages_a_split;
    }
};

// Shared memory of a part. The rings lie in two halves, which later hold the warps' sums.
template <typename D>
struct PartMemory {
    unsigned char* halves[2];
    PartStats (*stats)[kDecodeHeads];  // [kWarps]
    float* factors;                    // [kDecodeHeads][kWarpSize]; this and `sums` may lie in the rings
    float4* sums;                      // [kWarps][kDecodeHeads * kHeadDim / 4]

    __device__ unsigned char* ring(int warp) const {
        return (warp < D::kWarps / 2 ? halves[0] : halves[1]) + warp % (D::kWarps / 2) * D::kRingBytes;
    }
};

// Shared memory of a part beside the rings.
template <typename T, typename D>
struct PartBuffers {
    alignas(16) T queries[kDecodeHeads][D::kHeadDim];
    alignas(16) T newest[2][D::kHeadDim];  // key and value
    PartStats stats[D::kWarps][kDecodeHeads];
    float factors[kDecodeHeads][kWarpSize];
};

// The tiles of a part for one warp, whose ring is at `ring`.
template <typename T, typename D>
__device__ TileStream<T, D> tile_stream(const DecodeParams& params, const DecodePart& part, const RowSplits& splits,
                                        const T* cache, unsigned char* ring, int lane) {
    const int32_t split_begin = (splits.first_page + part.split * splits.pages_a_split) * kPageTokens;
    const int32_t end = min(splits.end, split_begin + splits.pages_a_split * kPageTokens);
    return {cache,
            params.block_table + int64_t{part.slot} * params.pages_per_seq,
            part.kv_head,
            params.shape.num_kv_heads,
            max(splits.begin, split_begin),
            end,
            end,
            shared_address(ring),
            lane};
}

// Sums the tiles from `token` on, whose first ones have been requested. patch(which, token, tile) may change a tile of
// keys (0) or values (1) before it is used.
template <typename T, typename D, typename Patch>
__device__ void attend_tiles(WarpSoftmax<T, D::kHeadDim>& softmax, const TileStream<T, D>& stream, int32_t token,
                          Patch&& patch) {
    // Each use of a tile is followed by the request for the tile kDepth further on.
    for (int slot = 0; token < stream.end; token += D::kStep) {
        float s[4];
        uint32_t p[2];
        wait_for_copies<D::kDepth - 1>();
        __syncwarp();
        patch(0, token, stream.tile(slot));
        softmax.scores(stream.tile(slot), stream.lane, s);
        __syncwarp();
        stream.request(token + D::kDepth / 2 * D::kStep, D::kDepth % 2, slot);
        slot = stream.next(slot);
        softmax.absorb(s, stream.begin - token, stream.end - token, stream.lane, p);
        wait_for_copies<D::kDepth - 1>();
        __syncwarp();
        patch(1, token, stream.tile(slot));
        softmax.add_values(stream.tile(slot), stream.lane, p);
        __syncwarp();
        stream.request(token + D::kAhead * D::kStep, 1 - D::kDepth % 2, slot);
        slot = stream.next(slot);
    }
}

// True in every thread of the last of `count` parts that call with this counter, which then is zero again; that part
// sees what the others wrote before. The block's first kThreads threads call.
template <int kThreads>
__device__ bool is_last_part(uint32_t* counter, int32_t count) {
    __shared__ bool last;
    attention_barrier<kThreads>();
    if (threadIdx.x == 0) {
        __threadfence();  // orders the whole block's writes, which the barrier put before this
        last = atomicAdd(counter, 1) == static_cast<uint32_t>(count - 1);
        if (last) *counter = 0;
        __threadfence();
    }
    attention_barrier<kThreads>();
    return last;
}

// Joins the warps' softmaxes of a part, and the parts of its heads where this is the last one that is done.
// result: T [heads, kHeadDim] of the part.
template <typename T, typename D>
__device__ void finish_part(const DecodeParams& params, const DecodePart& part, const RowSplits& splits,
                            const PartMemory<D>& memory, WarpSoftmax<T, D::kHeadDim>& softmax, T* result) {
    constexpr int kHeadDim = D::kHeadDim;
    const int warp = threadIdx.x / kWarpSize;
    softmax.finish(part.heads, threadIdx.x % kWarpSize, reinterpret_cast<float*>(memory.ring(warp)),
                   memory.stats[warp]);
    attention_barrier<D::kThreads>();

    const typename D::Parts warps{{memory.halves[0], memory.halves[1]}, D::kRingBytes, memory.stats};
    if (splits.count == 1) {
        warps.join(part.heads, [&](int head, int vector, float4 value, PartStats whole) {
            store_four(result + head * kHeadDim + vector * 4, add_scaled({}, 1.0f / whole.sum, value));
        });
        return;
    }
    const int64_t first = int64_t{part.row} * params.shape.num_heads * params.splits;
    const SplitParts<kHeadDim> parts{reinterpret_cast<float4*>(params.part_values + first * kHeadDim),
                                     params.part_stats + first, params.splits};
    warps.join(part.heads, [&](int head, int vector, float4 value, PartStats whole) {
        parts.store(part.first_head + head, part.split, vector, value, whole);
    });
    const int32_t groups = params.shape.num_kv_heads * params.head_groups;
    if (!is_last_part<D::kThreads>(params.counters + part.row * groups + part.group, splits.count)) return;
    parts.template join<D::kWarps>(part.first_head, part.heads, splits.count, memory.factors, memory.sums, result);
}

// The result of a part of a padding row.
template <typename D, typename T>
__device__ void clear_heads(int heads, T* result) {
    for (int i = threadIdx.x; i < heads * D::kHeadDim; i += D::kThreads) result[i] = round_to<T>(0);
}

// One part, by the block's first D::kThreads threads. wait_for_qkv(): returns when `qkv` may be read; is not called for
// a split that the row does not have.
//   qkv: T [num_rows, qkv_dim]; cache: of the layer; out: T [num_rows, num_heads * head_dim]
template <typename T, typename D, typename Wait>
__device__ void attend_part(const DecodeParams& params, const DecodeRope& rope, int32_t window, const DecodePart& part,
                            const PartMemory<D>& memory, PartBuffers<T, D>& shared, const T* qkv, T* cache, T* out,
                            Wait&& wait_for_qkv) {
    constexpr int kHeadDim = D::kHeadDim;
    const AttentionShape& shape = params.shape;
    const int warp = warp_index(), lane = threadIdx.x % kWarpSize;
    T* const result = out + (int64_t{part.row} * shape.num_heads + part.first_head) * kHeadDim;
    if (part.slot < 0) {
        wait_for_qkv();
        if (part.split == 0) clear_heads<D>(part.heads, result);
        return;
    }
    const int32_t position = params.positions[part.row];
    const RowSplits splits(position, window);
    if (part.split >= splits.count) return;

    auto stream = tile_stream<T, D>(params, part, splits, cache, memory.ring(warp), lane);
    const bool is_fresh = rope.newest == NewestToken::InQkv, has_newest = is_fresh && stream.end == splits.end;
    if (has_newest) --stream.cached_end;
    const int32_t token = stream.first_token(warp);
    // Earlier steps wrote the cache, which ended before this step's inputs were uploaded. So unless the newest position
    // comes from there, too, the first tiles are requested before the wait.
    if (!is_fresh) wait_for_qkv();
    stream.request_first(token);
    const int64_t page = stream.pages[position / kPageTokens];
    wait_for_qkv();

    const T* const row = qkv + int64_t{part.row} * (shape.num_heads + 2 * shape.num_kv_heads) * kHeadDim;
    const float* const angles = rope.cos_sin + int64_t{part.row} * rope.rotary_dim;
    for (int i = warp; i < part.heads + (has_newest ? 2 : 0); i += D::kWarps) {
        const int which = i - part.heads;  // beyond the queries: key, value
        const T* const head = row + (which < 0 ? part.first_head + i
                                               : shape.num_heads + which * shape.num_kv_heads + part.kv_head) *
                                        kHeadDim;
        if (which < 1)
            rotate_head(which < 0 ? rope.q_norm : rope.k_norm, angles, rope.rotary_dim, head, kHeadDim,
                        which < 0 ? shared.queries[i] : shared.newest[0], lane);
        else
            for (int e = lane; e < kHeadDim; e += kWarpSize) shared.newest[1][e] = head[e];
    }
    attention_barrier<D::kThreads>();
    WarpSoftmax<T, kHeadDim> softmax;
    softmax.load_queries(shared.queries[0], part.heads, lane);
    softmax.scale = shape.softmax_scale * kLog2E;

    constexpr int kChunks = kHeadDim / 8;  // of a row, 16 bytes each
    static_assert(kChunks <= kWarpSize);
    const auto newest = [&](int which) { return reinterpret_cast<const uint4*>(shared.newest[which])[lane]; };
    if (has_newest && part.group % params.head_groups == 0 && warp < 2 && lane < kChunks) {
        T* const target = cache + kv_tile_offset(page, warp, part.kv_head, shape.num_kv_heads, kHeadDim) +
                          int64_t{position % kPageTokens} * kHeadDim;
        reinterpret_cast<uint4*>(target)[lane] = newest(warp);
    }
    attend_tiles(softmax, stream, token, [&](int which, int32_t first, uint32_t tile) {
        const int in_tile = position - first;
        if (!has_newest || in_tile < 0 || in_tile >= kDecodeTileTokens) return;
        if (lane < kChunks) {
            const uint4 chunk = newest(which);
            asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(tile + D::Tile::offset(in_tile, lane)),
                         "r"(chunk.x), "r"(chunk.y), "r"(chunk.z), "r"(chunk.w)
                         : "memory");
        }
        __syncwarp();
    });
    finish_part<T, D>(params, part, splits, memory, softmax, result);
}

}  // namespace tinyllm
