// After the QKV matrix: per-head RMSNorm of q and k (where the model has it), RoPE on the first rotary_dim of each
// head, pairs (i, i + rotary_dim / 2), then q stays in place and k and v go to their page of the cache.
//
//   qkv: T [num_rows, (num_heads + 2 num_kv_heads) head_dim]; cos_sin: float [num_rows, 2, rotary_dim / 2]
//   cache: ops/kv_cache.h
// One warp per (row, head). Bound by the launch for one row; reads and writes each value once.
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/rows/rope_head.cuh"
#include "backends/cuda/rows/rows.h"
#include "backends/cuda/runtime/launch.h"
#include "ops/kv_cache.h"

namespace tinyllm::cuda {

namespace {

constexpr int kWarps = 4;

struct Step {
    const int32_t* positions;
    const int32_t* slots;
    const int32_t* block_table;
    int32_t pages_per_seq;
    const float* cos_sin;
    int32_t rotary_dim;
};

// PRECOND: grid (num_rows, ceil(heads / kWarps)), block kWarps * 32.
template <typename T>
__global__ void rope_append_kernel(Step step, NormWeight q_norm, NormWeight k_norm, int32_t num_heads,
                                   int32_t num_kv_heads, int32_t head_dim, T* qkv, T* cache) {
    const int32_t row = blockIdx.x, lane = threadIdx.x % kWarpSize;
    const int32_t head = blockIdx.y * kWarps + threadIdx.x / kWarpSize;
    // Where the step's inputs point to is known before qkv is: they were uploaded before the step's first kernel.
    const int32_t slot = step.slots[row], position = step.positions[row];
    const int64_t page = slot < 0 ? 0 : step.block_table[int64_t{slot} * step.pages_per_seq + position / kPageTokens];
    wait_for_predecessor();
    // Not earlier: the next kernel would occupy SMs while the QKV matrix still runs on some of them.
    release_successor();
    if (head >= num_heads + 2 * num_kv_heads || slot < 0) return;
    T* source = qkv + (int64_t{row} * (num_heads + 2 * num_kv_heads) + head) * head_dim;
    const float* angles = step.cos_sin + int64_t{row} * step.rotary_dim;
    if (head < num_heads) return rotate_head(q_norm, angles, step.rotary_dim, source, head_dim, source, lane);

    const int32_t which = head < num_heads + num_kv_heads ? 0 : 1;
    const int32_t kv_head = head - num_heads - which * num_kv_heads;
    T* target = cache + kv_tile_offset(page, which, kv_head, num_kv_heads, head_dim) +
                int64_t{position % kPageTokens} * head_dim;
    if (which == 0) return rotate_head(k_norm, angles, step.rotary_dim, source, head_dim, target, lane);
    for (int32_t i = lane; i < head_dim; i += kWarpSize) target[i] = source[i];
}

}  // namespace

void rope_append(cudaStream_t cuda_stream, const StepBatch& batch, const QkvWeights& weights,
                 const AttentionShape& shape, int32_t rotary_dim, const float* cos_sin, void* qkv, const KvLayer& kv) {
    if (batch.num_rows == 0) return;
    const Step step{batch.positions, batch.slots, batch.block_table, batch.pages_per_seq, cos_sin, rotary_dim};
    const int32_t heads = shape.num_heads + 2 * shape.num_kv_heads;
    const LaunchShape launch_shape{dim3(batch.num_rows, ceil_div(heads, kWarps)), kWarps * kWarpSize};
    with_activation(batch.dtype, [&](auto type) {
        using T = decltype(type);
        launch_overlapped("launch of rope_append_kernel", rope_append_kernel<T>, launch_shape, cuda_stream, step,
                          weights.q_norm, weights.k_norm, shape.num_heads, shape.num_kv_heads, shape.head_dim,
                          static_cast<T*>(qkv), static_cast<T*>(kv.data));
    });
}

}  // namespace tinyllm::cuda
