// out[r, h] = softmax(softmax_scale * q . K^T) V for any head_dim: one block per (row, head), with the running maximum
// and sum of Milakov and Gimelshein (2018).
//
//   qkv: T [num_rows, qkv_dim]; cache: ops/kv_cache.h; out: T [num_rows, num_heads * head_dim]
// The warps take tiles of 32 positions in turn: a lane scores one position, then the lanes split head_dim to add up
// the values. Tiles lie at absolute positions, so the order of the sums depends on the row's own length alone. Bound
// by the latency of a tile: every query head reads its keys and values for itself, mostly from the L2.
#include "backends/cuda/attention/any_head_dim.h"

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/runtime/launch.h"
#include "config/limits.h"
#include "ops/kv_cache.h"

namespace tinyllm::cuda {

namespace {

constexpr int kWarps = 8;
static_assert(kPageTokens % kWarpSize == 0, "a tile lies in one page");

// What a warp has seen so far: largest score, sum of the weights exp(score - largest), and sum of the weighted values,
// of which a lane holds the elements lane, lane + 32, ...
template <int kHeld>
struct Partial {
    float largest = -INFINITY, sum = 0;
    float weighted[kHeld] = {};
};

// PRECOND: dim is a multiple of kVector, key is aligned to that many elements.
template <int kVector, typename T>
__device__ float dot(const float* query, const T* key, int32_t dim) {
    float sum = 0;
#pragma unroll 4
    for (int32_t k = 0; k < dim; k += kVector) {
        const auto part = *reinterpret_cast<const Vector<T, kVector>*>(key + k);
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum = fmaf(query[k + i], widen(part.element[i]), sum);
    }
    return sum;
}

// Adds the positions [first, first + 32) as far as they lie in [begin, end); at least one does. `keys` and `values`:
// rows of `dim` elements from position `first` on, of which those outside may be anything.
template <typename T, int kHeld>
__device__ void add_tile(Partial<kHeld>& partial, const float* query, const T* keys, const T* values, int32_t dim,
                         int32_t first, int32_t begin, int32_t end, float softmax_scale) {
    const int32_t lane = threadIdx.x % kWarpSize;
    const bool seen = first + lane >= begin && first + lane < end;
    float score = -INFINITY;
    if (seen) {
        const T* const key = keys + lane * dim;
        const float product = dim % 8 == 0   ? dot<8>(query, key, dim)
                              : dim % 4 == 0 ? dot<4>(query, key, dim)
                                             : dot<2>(query, key, dim);
        score = product * softmax_scale;
    }
    const float largest = fmaxf(partial.largest, warp_reduce(score, Max{}));
    const float keep = expf(partial.largest - largest), weight = seen ? expf(score - largest) : 0.0f;
    partial.largest = largest;
    partial.sum = partial.sum * keep + warp_reduce(weight, Sum{});
#pragma unroll
    for (int i = 0; i < kHeld; ++i) partial.weighted[i] *= keep;
    const int32_t last = min(end - first, kWarpSize);
#pragma unroll 4
    for (int32_t token = max(begin - first, 0); token < last; ++token) {
        const float of_token = __shfl_sync(kFullWarp, weight, token);
#pragma unroll
        for (int i = 0; i < kHeld; ++i)
            if (lane + i * kWarpSize < dim)
                partial.weighted[i] =
                    fmaf(of_token, widen(values[token * dim + lane + i * kWarpSize]), partial.weighted[i]);
    }
}

// PRECOND: grid (num_rows, num_heads), block kWarps * 32; head_dim is even, at most kHeld * 32.
template <typename T, int kHeld>
__global__ void __launch_bounds__(kWarps* kWarpSize)
    attention_any_head_dim_kernel(AttentionShape shape, const int32_t* positions, const int32_t* slots,
                                  const int32_t* block_table, int32_t pages_per_seq, const T* qkv, const T* cache,
                                  T* out) {
    __shared__ float query[kHeld * kWarpSize], weighted[kWarps][kHeld * kWarpSize], largest[kWarps], sum[kWarps];
    wait_for_predecessor();
    release_successor();
    const int32_t row = blockIdx.x, head = blockIdx.y, dim = shape.head_dim;
    const int32_t warp = warp_index(), lane = threadIdx.x % kWarpSize;
    const int32_t slot = slots[row];
    const int32_t end = slot < 0 ? 0 : positions[row] + 1;  // a padding row sees nothing
    const int32_t begin = shape.window > 0 ? max(0, end - shape.window) : 0;
    const int32_t kv_head = head / (shape.num_heads / shape.num_kv_heads);
    const int32_t qkv_heads = shape.num_heads + 2 * shape.num_kv_heads;
    for (int32_t i = threadIdx.x; i < dim && slot >= 0; i += blockDim.x)
        query[i] = widen(qkv[(int64_t{row} * qkv_heads + head) * dim + i]);
    __syncthreads();

    Partial<kHeld> partial;
    const int32_t first_tile = begin / kWarpSize, skipped = (warp - first_tile % kWarps + kWarps) % kWarps;
    for (int32_t first = (first_tile + skipped) * kWarpSize; first < end; first += kWarps * kWarpSize) {
        const int64_t page = block_table[int64_t{slot} * pages_per_seq + first / kPageTokens];
        const int64_t token = int64_t{first % kPageTokens} * dim;
        add_tile(partial, query, cache + kv_tile_offset(page, 0, kv_head, shape.num_kv_heads, dim) + token,
                 cache + kv_tile_offset(page, 1, kv_head, shape.num_kv_heads, dim) + token, dim, first, begin, end,
                 shape.softmax_scale);
    }
#pragma unroll
    for (int i = 0; i < kHeld; ++i) weighted[warp][lane + i * kWarpSize] = partial.weighted[i];
    if (lane == 0) largest[warp] = partial.largest;
    if (lane == 0) sum[warp] = partial.sum;
    __syncthreads();

    float overall = largest[0];
    for (int w = 1; w < kWarps; ++w) overall = fmaxf(overall, largest[w]);
    for (int32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        float numerator = 0, denominator = 0;
        for (int w = 0; w < kWarps && end > begin; ++w) {
            const float factor = expf(largest[w] - overall);  // 0 for a warp that had no tile
            numerator = fmaf(factor, weighted[w][i], numerator);
            denominator = fmaf(factor, sum[w], denominator);
        }
        out[(int64_t{row} * shape.num_heads + head) * dim + i] =
            round_to<T>(end > begin ? numerator / denominator : 0.0f);
    }
}

template <typename T, int kHeld>
void launch(cudaStream_t cuda_stream, const StepBatch& batch, const AttentionShape& shape, const void* qkv,
            const KvLayer& kv, void* out) {
    const LaunchShape launch_shape{dim3(batch.num_rows, shape.num_heads), kWarps * kWarpSize};
    launch_overlapped("launch of attention_any_head_dim_kernel", attention_any_head_dim_kernel<T, kHeld>, launch_shape,
                      cuda_stream, shape, batch.positions, batch.slots, batch.block_table, batch.pages_per_seq,
                      static_cast<const T*>(qkv), static_cast<const T*>(kv.data), static_cast<T*>(out));
}

}  // namespace

void attention_any_head_dim(cudaStream_t cuda_stream, const StepBatch& batch, const AttentionShape& shape,
                            DType activation, const void* qkv, const KvLayer& kv, void* out) {
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        if (shape.head_dim <= 4 * kWarpSize)
            launch<T, 4>(cuda_stream, batch, shape, qkv, kv, out);
        else if (shape.head_dim <= 8 * kWarpSize)
            launch<T, 8>(cuda_stream, batch, shape, qkv, kv, out);
        else
            launch<T, kMaxHeadDim / kWarpSize>(cuda_stream, batch, shape, qkv, kv, out);
    });
}

}  // namespace tinyllm::cuda
