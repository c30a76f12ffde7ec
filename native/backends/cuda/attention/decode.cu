// Attention of a decode step: out[r, h] = softmax(softmax_scale * q . K^T) V for one row per sequence, on the tensor
// cores. The context is split over the SMs (flash decoding).
//
//   qkv: T [num_rows, qkv_dim]; cache: ops/kv_cache.h; out: T [num_rows, num_heads * head_dim]
// Where wanted, RoPE of q and k and the append to the cache are part of it (attention/decode_append.cuh).
// Bound by reading K and V once: 4 bytes per position, kv head and element of head_dim.
//
// A block takes one split of a row's context (attention/split.h) and up to kDecodeHeads query heads of one kv head,
// which share every load. Its warps take tiles of 16 positions in turn. Each warp has a cp.async pipeline of its own in
// shared memory, so no barrier of the block stands between a load and its use. Positions are the rows of the matrices,
// S^T = K Q^T and O^T = V^T P^T (m16n8k16): eight heads fill a tile, and a lane has the same heads in both products.
// The block that finishes a row last merges the splits in ascending order.
#include "backends/cuda/attention/decode_append.cuh"
#include "backends/cuda/attention/merge.cuh"
#include "backends/cuda/attention/tiled.h"
#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/exp2.cuh"
#include "backends/cuda/linear/decode_order.h"
#include "backends/cuda/runtime/launch.h"
#include "ops/kv_cache.h"

namespace tinyllm::cuda {

namespace {

struct DecodeParams {
    AttentionShape shape;
    const int32_t* positions;
    const int32_t* slots;
    const int32_t* block_table;
    int32_t pages_per_seq;
    int32_t head_groups;  // blocks that share the query heads of one kv head
    // Whether the next kernel, the output matrix, may start before the QKV matrix has ended. Where it has few blocks,
    // as in small models, that is slower.
    bool releases_first;
    float* split_values;
    SoftmaxStats* split_stats;
    uint32_t* counters;  // [rows * num_kv_heads * head_groups]
};

// The positions that a row sees, and how they are cut.
struct RowSplits {
    int32_t begin, end;
    int32_t first_page, pages_per_split, count;

    __device__ RowSplits(int32_t position, int32_t window) {
        end = position + 1;
        begin = window > 0 ? max(0, end - window) : 0;
        first_page = begin / kPageTokens;
        const int32_t pages = position / kPageTokens - first_page + 1;
        pages_per_split = max(kMinSplitPages, (pages + kMaxSplits - 1) / kMaxSplits);
        count = (pages + pages_per_split - 1) / pages_per_split;
    }
};

// True in every thread of the last of `count` blocks that call with this counter, which then is zero again; that
// block sees what the others wrote before. `shared` may hold something that is no longer used.
__device__ bool is_last_block(uint32_t* counter, int32_t count, uint32_t* shared) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();  // orders the whole block's writes, which the barrier put before this
        const uint32_t before = atomicAdd(counter, 1);
        if (before == static_cast<uint32_t>(count - 1)) *counter = 0;
        *shared = before;
        __threadfence();
    }
    __syncthreads();
    return *shared == static_cast<uint32_t>(count - 1);
}

// Shared memory in addition to the pipelines. They take 96 KB, so a block has 3 KB left on the smallest GPU.
template <typename T, int kHeadDim>
struct DecodeShared {
    SoftmaxStats warp_stats[Decode<kHeadDim>::kWarps][kDecodeHeads];
    AppendedToken<T, kHeadDim> appended;
};
constexpr int kDynamicAlign = 1024;  // of the pipelines, which lie behind it

// PRECOND: grid (most splits of a row, num_kv_heads * head_groups, num_rows), block Decode<kHeadDim>::kThreads.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(Decode<kHeadDim>::kThreads)
    attention_decode_kernel(const DecodeParams params, const DecodeRope rope, const T* qkv, T* cache, T* out) {
    using D = Decode<kHeadDim>;
    extern __shared__ __align__(kDynamicAlign) unsigned char shared[];
    __shared__ DecodeShared<T, kHeadDim> beside;
    AppendedToken<T, kHeadDim>& appended = beside.appended;
    if (params.releases_first) release_successor();
    const AttentionShape& shape = params.shape;
    const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
    const int32_t row = blockIdx.z, split = blockIdx.x, slot = params.slots[row];
    const int32_t q_per_kv = shape.num_heads / shape.num_kv_heads;
    const int32_t kv_head = blockIdx.y / params.head_groups,
                  first_of_group = blockIdx.y % params.head_groups * kDecodeHeads;
    const int32_t first_head = kv_head * q_per_kv + first_of_group,
                  heads = min(kDecodeHeads, q_per_kv - first_of_group);
    T* result = out + (int64_t{row} * shape.num_heads + first_head) * kHeadDim;
    if (slot < 0) {
        wait_for_predecessor();
        if (split == 0)
            for (int i = threadIdx.x; i < heads * kHeadDim; i += D::kThreads) result[i] = round_to<T>(0);
        return;
    }
    const int32_t position = params.positions[row];
    const RowSplits splits(position, shape.window);
    if (split >= splits.count) return;

    const int32_t split_begin = (splits.first_page + split * splits.pages_per_split) * kPageTokens;
    const int32_t begin = max(splits.begin, split_begin);
    const int32_t end = min(splits.end, split_begin + splits.pages_per_split * kPageTokens);
    const bool appends = rope.newest == NewestToken::InQkv, has_newest = appends && end == splits.end;
    unsigned char* tiles = shared + warp * D::kPipelineBytes;
    const TilePipeline<T, kHeadDim> pipeline{cache,
                                             params.block_table + int64_t{slot} * params.pages_per_seq,
                                             kv_head,
                                             shape.num_kv_heads,
                                             begin,
                                             end,
                                             has_newest ? end - 1 : end,
                                             shared_address(tiles),
                                             lane};
    int32_t token = begin / kDecodeTileTokens * kDecodeTileTokens + warp * kDecodeTileTokens;

    // Only the newest position comes from a predecessor: the others were written by earlier steps, which ended before
    // this step's inputs were uploaded. So the first tiles are requested before the wait, unless the newest position is
    // in the cache too.
    const int64_t page = pipeline.pages[position / kPageTokens];
    if (!appends) wait_for_predecessor();
#pragma unroll
    for (int stage = 0; stage < D::kStages; ++stage) pipeline.request(token + stage / 2 * D::kStep, stage % 2, stage);
    wait_for_predecessor();
    if (!params.releases_first) release_successor();
    WarpSoftmax<T, kHeadDim> softmax;
    softmax.scale = shape.softmax_scale * kLog2E;
    const T* const of_row = qkv + int64_t{row} * (shape.num_heads + 2 * shape.num_kv_heads) * kHeadDim;
    if (appends) {
        appended.load(rope, shape, row, of_row, kv_head, first_head, heads, has_newest);
        __syncthreads();
        softmax.load_queries(appended.queries[0], heads, lane);
        if (has_newest && first_of_group == 0 && warp < 2)
            appended.append(warp,
                            cache + kv_tile_offset(page, warp, kv_head, shape.num_kv_heads, kHeadDim) +
                                int64_t{position % kPageTokens} * kHeadDim,
                            lane);
    } else {
        softmax.load_queries(of_row + first_head * kHeadDim, heads, lane);
    }

    // Each use of a tile is followed by the request for the tile kStages later.
    for (int stage = 0; token < end; token += D::kStep) {
        float s[4];
        uint32_t p[2];
        const int newest_row = position - token;
        const bool holds_newest = has_newest && newest_row >= 0 && newest_row < kDecodeTileTokens;
        wait_for_copies<D::kStages - 1>();
        __syncwarp();
        if (holds_newest) appended.put(0, pipeline.tile(stage), newest_row, lane);
        softmax.scores(pipeline.tile(stage), lane, s);
        __syncwarp();
        pipeline.request(token + D::kStages / 2 * D::kStep, D::kStages % 2, stage);
        stage = pipeline.next(stage);
        softmax.absorb(s, begin - token, end - token, lane, p);
        wait_for_copies<D::kStages - 1>();
        __syncwarp();
        if (holds_newest) appended.put(1, pipeline.tile(stage), newest_row, lane);
        softmax.add_values(pipeline.tile(stage), lane, p);
        __syncwarp();
        pipeline.request(token + D::kAhead * D::kStep, 1 - D::kStages % 2, stage);
        stage = pipeline.next(stage);
    }
    softmax.finish(heads, lane, reinterpret_cast<float*>(tiles), beside.warp_stats[warp]);
    __syncthreads();

    const typename D::Results warps{reinterpret_cast<const float*>(shared), D::kPipelineBytes / 4, beside.warp_stats};
    if (splits.count == 1) {
        warps.merge(heads, [&](int head, int vector, float4 value, SoftmaxStats whole) {
            store_four(result + head * kHeadDim + vector * 4, add_scaled({}, 1.0f / whole.sum, value));
        });
        return;
    }
    const int64_t first_result = int64_t{row} * shape.num_heads * gridDim.x;
    const SplitResults<kHeadDim> results{reinterpret_cast<float4*>(params.split_values + first_result * kHeadDim),
                                         params.split_stats + first_result, static_cast<int32_t>(gridDim.x)};
    warps.merge(heads, [&](int head, int vector, float4 value, SoftmaxStats whole) {
        results.store(first_head + head, split, vector, value, whole);
    });
    uint32_t* const counter = params.counters + row * gridDim.y + blockIdx.y;
    if (!is_last_block(counter, splits.count, reinterpret_cast<uint32_t*>(&beside.warp_stats))) return;
    results.template merge<D::kWarps>(first_head, heads, splits.count, reinterpret_cast<float*>(shared), result);
}

// The most pages that a row of the batch sees.
int32_t most_pages(const StepBatch& batch, int32_t window) {
    const auto pages = static_cast<int32_t>(ceil_div(batch.max_kv_len, kPageTokens));
    // A window of w positions touches one page more than w - 1 positions fill.
    return window > 0 ? std::min(pages, static_cast<int32_t>(ceil_div(window - 1, kPageTokens)) + 1) : pages;
}

template <typename T, int kHeadDim>
void launch_decode(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch, const AttentionShape& shape,
                   const LaunchHints& hints, const DecodeRope& rope, const T* qkv, T* cache, T* out) {
    using D = Decode<kHeadDim>;
    TL_CUDA_CHECK(cudaFuncSetAttribute(attention_decode_kernel<T, kHeadDim>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, D::kSharedBytes));
    const auto head_groups = static_cast<int32_t>(ceil_div(shape.q_per_kv(), kDecodeHeads));
    const int32_t blocks_per_row = shape.num_kv_heads * head_groups;
    const int32_t splits = most_splits(most_pages(batch, shape.window));
    const auto rows_per_launch = static_cast<int32_t>(kScratchCounters / blocks_per_row);
    TL_CHECK(rows_per_launch > 0);
    for (int32_t first = 0; first < batch.num_rows; first += rows_per_launch) {
        const int32_t rows = std::min(rows_per_launch, batch.num_rows - first);
        TL_CHECK(attention_decode_scratch_bytes(rows, shape.num_heads, kHeadDim, splits) <= scratch.bytes);
        auto* values = static_cast<float*>(scratch.data);
        const DecodeParams params{
            shape,
            batch.positions + first,
            batch.slots + first,
            batch.block_table,
            batch.pages_per_seq,
            head_groups,
            fills_sms(ceil_div(hints.next_outputs, kTileRows)),
            values,
            reinterpret_cast<SoftmaxStats*>(values + int64_t{rows} * shape.num_heads * splits * kHeadDim),
            scratch.counters};
        DecodeRope rows_rope = rope;
        rows_rope.cos_sin += int64_t{first} * rope.rotary_dim;
        const LaunchShape launch_shape{dim3(splits, blocks_per_row, rows), D::kThreads, D::kSharedBytes};
        launch_overlapped("launch of attention_decode_kernel", attention_decode_kernel<T, kHeadDim>, launch_shape,
                          cuda_stream, params, rows_rope, qkv + int64_t{first} * shape.qkv_dim(), cache,
                          out + int64_t{first} * shape.num_heads * kHeadDim);
    }
}

}  // namespace

int32_t attention_decode_shared_bytes(int32_t head_dim) {
    int32_t bytes = 0;
    with_head_dim(head_dim, [&](auto dim) {
        constexpr int kBeside = static_cast<int>(sizeof(DecodeShared<__half, dim()>));
        bytes = Decode<dim()>::kSharedBytes + (kBeside + kDynamicAlign - 1) / kDynamicAlign * kDynamicAlign;
    });
    return bytes;
}

void attention_decode(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch, const AttentionShape& shape,
                      const LaunchHints& hints, const DecodeRope& rope, DType activation, const void* qkv,
                      const KvLayer& kv, void* out) {
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        with_head_dim(shape.head_dim, [&](auto dim) {
            launch_decode<T, dim()>(cuda_stream, scratch, batch, shape, hints, rope, static_cast<const T*>(qkv),
                                    static_cast<T*>(kv.data), static_cast<T*>(out));
        });
    });
}

}  // namespace tinyllm::cuda
