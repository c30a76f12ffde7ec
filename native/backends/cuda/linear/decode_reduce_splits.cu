// Decode linear for many rows, second kernel: adds the partial sums of the chunks of k, in ascending order, and writes
// y.
//
//   partial: float [chunks, rows, n_padded]; out: LinearOutput
// Bound by its launch and by the latency of one load: the partial sums are in the L2.
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
    join_chunks_kernel(const __grid_constant__ DecodeWeight weight, const __grid_constant__ LinearOutput out,
                       const float* partial, const int32_t rows) {
    release_successor();
    wait_for_predecessor();
    const int32_t row = blockIdx.y, first = (blockIdx.x * kThreads + threadIdx.x) * 2;
    if (first >= weight.n) return;
    Addend<T> addend;
    addend.read(out, weight.n, row, first);
    float2 parts[kMaxChunks];
#pragma unroll
    for (int chunk = 0; chunk < kMaxChunks; ++chunk) {
        if (chunk >= weight.chunks) break;
        const int64_t at = (int64_t{chunk} * rows + row) * (weight.num_tiles * kTileRows) + first;
        parts[chunk] = __ldcg(reinterpret_cast<const float2*>(partial + at));
    }
    float2 y = {};
#pragma unroll
    for (int chunk = 0; chunk < kMaxChunks; ++chunk) {
        if (chunk >= weight.chunks) break;
        y.x += parts[chunk].x;
        y.y += parts[chunk].y;
    }
    write_outputs<T>(out, weight.bias, weight.n, row, first, y, addend);
}

}  // namespace

void join_chunks(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, const float* partial,
                 int32_t rows, const LinearOutput& out) {
    const dim3 blocks(ceil_div(weight.n, 2 * kThreads), rows);
    with_activation(activation, [&](auto type) {
        launch_overlapped("launch of join_chunks_kernel", join_chunks_kernel<decltype(type)>, {blocks, kThreads},
                          cuda_stream, weight, out, partial, rows);
    });
}

}  // namespace tinyllm::cuda
