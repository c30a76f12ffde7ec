// out[r, h] = softmax(softmax_scale * q . K^T) V, a warp a (row, head): it walks the positions that the row sees with
// the running maximum and sum of Milakov and Gimelshein (2018), lanes splitting head_dim.
//
//   qkv: T [num_rows, qkv_dim]; cache: runtime/kv_cache.h; out: T [num_rows, num_heads * head_dim]
// Every query head reads its keys and values on its own, one position at a time: bound by latency.
#include "backends/cuda/attention_simple.h"

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/launch.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "model/config.h"
#include "runtime/kv_cache.h"

namespace tinyllm {

namespace {

constexpr int kWarps = 4;
constexpr int kHeld = kMaxHeadDim / kWarpSize;  // elements of a head that a lane holds: lane, lane + 32, ...

// PRECOND: grid (num_rows, ceil(num_heads / kWarps)), block kWarps * 32; head_dim at most kMaxHeadDim.
template <typename T>
__global__ void attention_simple_kernel(AttentionShape shape, const int32_t* positions, const int32_t* slots,
                                        const int32_t* block_table, int32_t pages_per_seq, const T* qkv, const T* cache,
                                        T* out) {
    wait_for_predecessor();
    release_successor();
    const int32_t row = blockIdx.x, lane = threadIdx.x % kWarpSize, dim = shape.head_dim;
    const int32_t head = blockIdx.y * kWarps + threadIdx.x / kWarpSize;
    if (head >= shape.num_heads) return;
    const int32_t slot = slots[row];
    const int32_t end = slot < 0 ? 0 : positions[row] + 1;  // a padding row sees nothing
    const int32_t begin = shape.window > 0 ? max(0, end - shape.window) : 0;
    const int32_t kv_head = head / (shape.num_heads / shape.num_kv_heads);
    const int32_t qkv_heads = shape.num_heads + 2 * shape.num_kv_heads;

    float query[kHeld] = {}, weighted[kHeld] = {};
    for (int i = 0; i < kHeld; ++i)
        if (lane + i * kWarpSize < dim && slot >= 0)
            query[i] = widen(qkv[(int64_t{row} * qkv_heads + head) * dim + lane + i * kWarpSize]);
    float largest = -INFINITY, sum = 0;
    for (int32_t position = begin; position < end; ++position) {
        const int64_t page = block_table[int64_t{slot} * pages_per_seq + position / kPageTokens];
        const int64_t token = int64_t{position % kPageTokens} * dim;
        const T* key = cache + kv_tile_offset(page, 0, kv_head, shape.num_kv_heads, dim) + token;
        const T* value = cache + kv_tile_offset(page, 1, kv_head, shape.num_kv_heads, dim) + token;
        float dot = 0;
        for (int i = 0; i < kHeld; ++i)
            if (lane + i * kWarpSize < dim) dot += query[i] * widen(key[lane + i * kWarpSize]);
        const float score = warp_reduce(dot, Sum{}) * shape.softmax_scale;
        const float next = fmaxf(largest, score);
        const float keep = expf(largest - next), weight = expf(score - next);
        for (int i = 0; i < kHeld; ++i)
            if (lane + i * kWarpSize < dim)
                weighted[i] = weighted[i] * keep + weight * widen(value[lane + i * kWarpSize]);
        sum = sum * keep + weight;
        largest = next;
    }
    T* result = out + (int64_t{row} * shape.num_heads + head) * dim;
    for (int i = 0; i < kHeld; ++i)
        if (lane + i * kWarpSize < dim)
            result[lane + i * kWarpSize] = round_to<T>(end > begin ? weighted[i] / sum : 0.0f);
}

}  // namespace

void attention_simple_cuda(cudaStream_t cuda_stream, const StepBatch& batch, const AttentionShape& shape,
                           DType activation, const void* qkv, const KvLayer& kv, void* out) {
    const LaunchShape launch_shape{dim3(batch.num_rows, ceil_div(shape.num_heads, kWarps)), kWarps * kWarpSize};
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        launch_overlapped("launch of attention_simple_kernel", attention_simple_kernel<T>, launch_shape, cuda_stream,
                          shape, batch.positions, batch.slots, batch.block_table, batch.pages_per_seq,
                          static_cast<const T*>(qkv), static_cast<const T*>(kv.data), static_cast<T*>(out));
    });
}

}  // namespace tinyllm
