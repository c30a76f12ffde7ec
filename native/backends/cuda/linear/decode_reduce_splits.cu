// Decode linear for many tokens, second kernel of split-K: adds the partial sums of the K splits in ascending order and
// writes y.
//
//   partial: float [k_splits, tokens, n_padded]; out: LinearOutput
// Bound by its launch and by the latency of one load, because the partial sums are in the L2.
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/linear/decode_kernels.h"
#include "backends/cuda/linear/output.cuh"
#include "backends/cuda/runtime/launch.h"

namespace tinyllm::cuda {

namespace {

constexpr int kThreads = 256;

// PRECOND: grid (ceil(n / (2 kThreads)), rows), block kThreads.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    reduce_splits_kernel(const __grid_constant__ DecodeWeight weight, const __grid_constant__ LinearOutput out,
                         const float* partial, const int32_t tokens) {
    release_successor();
    wait_for_predecessor();
    const int32_t token = blockIdx.y, first = (blockIdx.x * kThreads + threadIdx.x) * 2;
    if (first >= weight.n) return;
    Addend<T> addend;
    addend.read(out, weight.n, token, first);
    float2 parts[kMaxKSplits];
#pragma unroll
    for (int k_split = 0; k_split < kMaxKSplits; ++k_split) {
        if (k_split >= weight.k_splits) break;
        const int64_t at = (int64_t{k_split} * tokens + token) * (weight.num_tiles * kTileRows) + first;
        parts[k_split] = __ldcg(reinterpret_cast<const float2*>(partial + at));
    }
    float2 y = {};
#pragma unroll
    for (int k_split = 0; k_split < kMaxKSplits; ++k_split) {
        if (k_split >= weight.k_splits) break;
        y.x += parts[k_split].x;
        y.y += parts[k_split].y;
    }
    write_outputs<T>(out, weight.bias, weight.n, token, first, y, addend);
}

}  // namespace

void reduce_splits(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, const float* partial,
                   int32_t tokens, const LinearOutput& out) {
    const dim3 blocks(ceil_div(weight.n, 2 * kThreads), tokens);
    with_activation(activation, [&](auto type) {
        launch_overlapped("launch of reduce_splits_kernel", reduce_splits_kernel<decltype(type)>, {blocks, kThreads},
                          cuda_stream, weight, out, partial, tokens);
    });
}

}  // namespace tinyllm::cuda
