// Attention within decode_layers.cu: RoPE of the step's own queries and keys, the append to the cache, and what
// attention_decode.cu does. The newest position does not come from the cache, but from the QKV matrix.
#pragma once

#include "backends/cuda/attention_decode_part.cuh"
#include "backends/cuda/rope_head.cuh"

namespace tinyllm {

// Memory for the rings, as few tiles as there can be: one of keys and one of values a warp.
template <int kHeadDim>
using LayersDecode = Decode<kHeadDim, 2 * Decode<kHeadDim>::kWarps * Decode<kHeadDim>::kTileBytes>;

// Shared memory beside the rings.
template <typename T, typename D>
struct LayersAttentionMemory {
    alignas(16) T queries[kDecodeHeads][D::kHeadDim];
    alignas(16) T newest[2][D::kHeadDim];  // key and value
    PartStats stats[D::kWarps][kDecodeHeads];
    float factors[kDecodeHeads][kWarpSize];
};

template <typename T>
struct LayersAttention {
    const DecodeParams& params;
    int32_t window;  // in place of that in `params`
    const NormWeight &q_norm, &k_norm;
    const float* cos_sin;  // float [num_rows, 2, rotary_dim / 2]
    int32_t rotary_dim;
    const T* qkv;  // T [num_rows, qkv_dim], as the matrix gave it
    T* cache;      // of the layer
    T* out;        // T [num_rows, num_heads * head_dim]
};

// One part, by the block's first D::kThreads threads. wait_for_qkv(): returns when `qkv` may be read; is not called for
// a split that the row does not have.
template <typename T, typename D, typename Wait>
__device__ void attend_part(const LayersAttention<T>& attention, const DecodePart& part, const PartMemory<D>& memory,
                            LayersAttentionMemory<T, D>& shared, Wait&& wait_for_qkv) {
    constexpr int kHeadDim = D::kHeadDim;
    const DecodeParams& params = attention.params;
    const AttentionShape& shape = params.shape;
    const int warp = warp_index(), lane = threadIdx.x % kWarpSize;
    T* const result = attention.out + (int64_t{part.row} * shape.num_heads + part.first_head) * kHeadDim;
    if (part.slot < 0) {
        wait_for_qkv();
        if (part.split == 0) clear_heads<D>(part.heads, result);
        return;
    }
    const int32_t position = params.positions[part.row];
    const RowSplits splits(position, attention.window);
    if (part.split >= splits.count) return;

    auto stream = tile_stream<T, D>(params, part, splits, attention.cache, memory.ring(warp), lane);
    const bool has_newest = stream.end == splits.end;
    if (has_newest) --stream.cached_end;
    const int32_t token = stream.first_token(warp);
    stream.request_first(token);
    const int64_t page = stream.pages[position / kPageTokens];
    wait_for_qkv();

    const T* const row = attention.qkv + int64_t{part.row} * (shape.num_heads + 2 * shape.num_kv_heads) * kHeadDim;
    const float* const angles = attention.cos_sin + int64_t{part.row} * attention.rotary_dim;
    for (int i = warp; i < part.heads + (has_newest ? 2 : 0); i += D::kWarps) {
        const int which = i - part.heads;  // beyond the queries: key, value
        const T* const head = row + (which < 0 ? part.first_head + i
                                               : shape.num_heads + which * shape.num_kv_heads + part.kv_head) *
                                        kHeadDim;
        if (which < 1)
            rotate_head(which < 0 ? attention.q_norm : attention.k_norm, angles, attention.rotary_dim, head, kHeadDim,
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
        T* const target = attention.cache + kv_tile_offset(page, warp, part.kv_head, shape.num_kv_heads, kHeadDim) +
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
