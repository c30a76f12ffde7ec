// out[r, h] = softmax(softmax_scale * q . K^T) V for the rows of prompts, causal, on the tensor cores: flash attention
// (Dao 2023, FlashAttention-2) with mma.sync.
//
//   qkv: T [num_rows, qkv_dim]; cache: ops/kv_cache.h; out: T [num_rows, num_heads * head_dim]
// Bound by arithmetic: 4 head_dim operations per head and pair of a row and a position that it sees.
//
// A block takes kBlockRows rows of a segment and one head, and walks the pages that any of its rows sees; a page is a
// tile of keys and of values. Tiles are at absolute positions and a tile of which a row sees nothing changes none of
// the row's bits, so a row's result does not depend on how a prompt is cut into chunks or on its neighbours.
#include "backends/cuda/attention/prefill_rows.cuh"
#include "backends/cuda/attention/tiled.h"
#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/exp2.cuh"
#include "backends/cuda/runtime/launch.h"
#include "ops/kv_cache.h"

namespace tinyllm::cuda {

namespace {

struct PrefillParams {
    AttentionShape shape;
    const int32_t* positions;
    const int32_t* slots;
    const int32_t* segment_starts;
    const int32_t* block_table;
    int32_t pages_per_seq;
};

// PRECOND: grid (num_heads, ceil(max_segment_rows / kBlockRows), num_segments), block Prefill<kHeadDim>::kThreads.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(Prefill<kHeadDim>::kThreads, Prefill<kHeadDim>::kBlocksPerSm)
    attention_prefill_kernel(const PrefillParams params, const T* qkv, const T* cache, T* out) {
    using P = Prefill<kHeadDim>;
    using Tile = HeadTile<kHeadDim>;
    extern __shared__ __align__(1024) unsigned char shared[];
    wait_for_predecessor();
    release_successor();
    const AttentionShape& shape = params.shape;
    const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
    const int32_t head = blockIdx.x, kv_head = head / (shape.num_heads / shape.num_kv_heads);
    // The last rows see most: they start first, so that no long block is left over at the end.
    const int32_t first_row = (gridDim.y - 1 - blockIdx.y) * P::kBlockRows;
    const int32_t start = params.segment_starts[blockIdx.z];
    const int32_t rows = min(P::kBlockRows, params.segment_starts[blockIdx.z + 1] - start - first_row);
    if (rows <= 0) return;
    const int32_t slot = params.slots[start];
    const int32_t position = params.positions[start] + first_row, end = position + rows;
    const int32_t first_page = shape.window > 0 ? max(0, position - shape.window + 1) / kPageTokens : 0;
    const int32_t end_page =
        slot < 0 ? first_page : (end + kPageTokens - 1) / kPageTokens;  // a padding row sees nothing
    const int32_t* pages = params.block_table + int64_t{max(slot, 0)} * params.pages_per_seq;

    const uint32_t query_tile = shared_address(shared), page_tiles = query_tile + Tile::bytes(P::kBlockRows);
    const auto page_tile = [&](int32_t page, int which) {
        return page_tiles + (page % kPrefillStages * 2 + which) * P::kPageBytes;
    };
    const auto request = [&](int32_t page, int which) {
        if (page < end_page) {
            const T* source = cache + kv_tile_offset(pages[page], which, kv_head, shape.num_kv_heads, kHeadDim);
            Tile::template request_valid<kPageTokens, P::kThreads>(page_tile(page, which), source, kHeadDim, 0,
                                                                   end - page * kPageTokens, threadIdx.x);
        }
        commit_copies();
    };
    const int64_t q_stride = int64_t{shape.num_heads + 2 * shape.num_kv_heads} * kHeadDim;
    Tile::template request_valid<P::kBlockRows, P::kThreads>(
        query_tile, qkv + (start + first_row) * q_stride + int64_t{head} * kHeadDim, q_stride, 0, rows, threadIdx.x);
    request(first_page, 0);
    request(first_page, 1);

    const int32_t warp_position = position + warp * P::kWarpRows;
    const uint32_t queries = query_tile + warp * Tile::bytes(P::kWarpRows);
    RowSoftmax<T, kHeadDim> softmax(shape.softmax_scale * kLog2E, shape.window, warp_position + lane / 4, lane);
    for (int32_t page = first_page; page < end_page; ++page) {
        // Whoever passes the barrier finds the keys of all threads in place, and nobody still reads the tiles of the
        // page before.
        wait_for_copies<1>();
        __syncthreads();
        request(page + 1, 0);
        request(page + 1, 1);
        const int32_t page_begin = page * kPageTokens, page_last = page_begin + kPageTokens - 1;
        // A warp's rows may all lie before the page, or have it all behind their window.
        const bool seen = page_begin < warp_position + P::kWarpRows &&
                          (shape.window == 0 || page_last > warp_position - shape.window);
        float s[P::kRowTiles][kPageTokens / 8][4];
        if (seen) {
            softmax.scores(queries, page_tile(page, 0), s);
            if (page_last > warp_position ||
                (shape.window > 0 && page_begin <= warp_position + P::kWarpRows - 1 - shape.window))
                softmax.hide(page_begin, s);
            softmax.absorb(s);
        }
        wait_for_copies<2>();
        __syncthreads();
        if (seen) softmax.add_values(s, page_tile(page, 1));
    }
    wait_for_copies<0>();
    __syncthreads();

    // Each warp's results take the place of its queries, for stores of 16 bytes.
    unsigned char* results = shared + warp * Tile::bytes(P::kWarpRows);
    softmax.finish(results);
    __syncwarp();
    const int64_t out_stride = int64_t{shape.num_heads} * kHeadDim;
    T* target = out + (start + first_row + warp * P::kWarpRows) * out_stride + int64_t{head} * kHeadDim;
#pragma unroll
    for (int i = 0; i < P::kWarpRows * Tile::kVectors / kWarpSize; ++i) {
        const int index = lane + i * kWarpSize, row = index / Tile::kVectors, vector = index % Tile::kVectors;
        if (warp * P::kWarpRows + row < rows)
            *reinterpret_cast<uint4*>(target + row * out_stride + vector * 8) =
                *reinterpret_cast<const uint4*>(results + Tile::offset(row, vector));
    }
}

template <typename T, int kHeadDim>
void launch_prefill(cudaStream_t cuda_stream, const StepBatch& batch, const AttentionShape& shape, const T* qkv,
                    const T* cache, T* out) {
    using P = Prefill<kHeadDim>;
    TL_CUDA_CHECK(cudaFuncSetAttribute(attention_prefill_kernel<T, kHeadDim>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, P::kSharedBytes));
    const PrefillParams params{
        shape, batch.positions, batch.slots, batch.segment_starts, batch.block_table, batch.pages_per_seq};
    const LaunchShape launch_shape{
        dim3(shape.num_heads, ceil_div(batch.max_segment_rows, P::kBlockRows), batch.num_segments), P::kThreads,
        P::kSharedBytes};
    launch_overlapped("launch of attention_prefill_kernel", attention_prefill_kernel<T, kHeadDim>, launch_shape,
                      cuda_stream, params, qkv, cache, out);
}

}  // namespace

int32_t attention_prefill_shared_bytes(int32_t head_dim) {
    int32_t bytes = 0;
    with_head_dim(head_dim, [&](auto dim) { bytes = Prefill<dim()>::kSharedBytes; });
    return bytes;
}

void attention_prefill(cudaStream_t cuda_stream, const StepBatch& batch, const AttentionShape& shape, DType activation,
                       const void* qkv, const KvLayer& kv, void* out) {
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        with_head_dim(shape.head_dim, [&](auto dim) {
            launch_prefill<T, dim()>(cuda_stream, batch, shape, static_cast<const T*>(qkv),
                                     static_cast<const T*>(kv.data), static_cast<T*>(out));
        });
    });
}

}  // namespace tinyllm::cuda
