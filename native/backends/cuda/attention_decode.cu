// out[r, h] = softmax(softmax_scale * q . K^T) V for one row a sequence, on the tensor cores, the context split over
// the SMs.
//
//   qkv: T [num_rows, qkv_dim]; cache: runtime/kv_cache.h; out: T [num_rows, num_heads * head_dim]
// Bound by reading K and V once: 4 bytes a position, kv head and element of head_dim.
//
// A block takes one part of a row's context (attention_tiled.h) and up to kDecodeHeads query heads of one kv head,
// which share every load. Its warps take tiles of 16 positions in turn, each through a ring of its own in shared
// memory, so that no barrier stands between a load and its use. With positions as the rows of the matrices, S^T = K Q^T
// and O^T = V^T P^T (m16n8k16), eight heads fill a tile, and the heads of a lane are the same in both products. The
// block that finishes a row last joins the parts, in the order of the splits.
#include "backends/cuda/attention_decode_part.cuh"
#include "backends/cuda/attention_tiled.h"
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/launch.cuh"

namespace tinyllm {

namespace {

// PRECOND: grid (params.splits, num_kv_heads * head_groups, num_rows), block Decode<kHeadDim>::kThreads.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(Decode<kHeadDim>::kThreads)
    attention_decode_kernel(const __grid_constant__ DecodeParams params, const __grid_constant__ DecodeRope rope,
                            const T* qkv, T* cache, T* out) {
    using D = Decode<kHeadDim>;
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ PartBuffers<T, D> buffers;
#ifdef TL_EARLY
    release_successor();
#endif
    static_assert(D::kSharedBytes >= kDecodeHeads * D::kWarps * kHeadDim * 4, "space to join the splits");
    const PartMemory<D> memory{
        {shared, shared + D::kSharedBytes / 2}, buffers.stats, buffers.factors[0], reinterpret_cast<float4*>(shared)};
    const DecodePart part(params, blockIdx.x, blockIdx.y, blockIdx.z);
    attend_part<T, D>(params, rope, params.shape.window, part, memory, buffers, qkv, cache, out, [] {
        wait_for_predecessor();
#ifndef TL_EARLY
        // Not earlier: what follows would take its places on the SMs while the matrix still runs on some, two blocks of
        // the next matrix would come to share an SM, and that matrix would take twice as long (12 us a layer at 7B).
        release_successor();
#endif
    });
}

template <typename T, int kHeadDim>
void launch_decode(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch, const AttentionShape& shape,
                   const DecodeRope& rope, const T* qkv, T* cache, T* out) {
    using D = Decode<kHeadDim>;
    TL_CUDA_CHECK(cudaFuncSetAttribute(attention_decode_kernel<T, kHeadDim>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, D::kSharedBytes));
    const int32_t blocks_a_row = shape.num_kv_heads * decode_head_groups(shape);
    const int32_t splits = decode_splits(batch, shape.window);
    const auto rows_a_launch = static_cast<int32_t>(kScratchCounters / blocks_a_row);
    TL_CHECK(rows_a_launch > 0);
    for (int32_t first = 0; first < batch.num_rows; first += rows_a_launch) {
        const int32_t rows = std::min(rows_a_launch, batch.num_rows - first);
        TL_CHECK(attention_decode_scratch_bytes(rows, shape.num_heads, kHeadDim, splits) <= scratch.bytes);
        DecodeRope rows_rope = rope;
        rows_rope.cos_sin += int64_t{first} * rope.rotary_dim;
        const DecodeParams params = decode_params(batch, shape, first, rows, splits, scratch.data, scratch.counters);
        const LaunchShape launch_shape{dim3(splits, blocks_a_row, rows), D::kThreads, D::kSharedBytes};
        launch_overlapped("launch of attention_decode_kernel", attention_decode_kernel<T, kHeadDim>, launch_shape,
                          cuda_stream, params, rows_rope, qkv + int64_t{first} * shape.qkv_dim(), cache,
                          out + int64_t{first} * shape.num_heads * kHeadDim);
    }
}

}  // namespace

int32_t attention_decode_shared_bytes(int32_t head_dim) {
    int32_t bytes = 0;
    with_head_dim(head_dim, [&](auto dim) { bytes = Decode<dim()>::kSharedBytes; });
    return bytes;
}

void attention_decode_cuda(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch,
                           const AttentionShape& shape, const DecodeRope& rope, DType activation, const void* qkv,
                           const KvLayer& kv, void* out) {
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        with_head_dim(shape.head_dim, [&](auto dim) {
            launch_decode<T, dim()>(cuda_stream, scratch, batch, shape, rope, static_cast<const T*>(qkv),
                                    static_cast<T*>(kv.data), static_cast<T*>(out));
        });
    });
}

}  // namespace tinyllm
