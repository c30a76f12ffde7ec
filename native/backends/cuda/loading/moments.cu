// Second moments of rows in device memory (formulas and order of summation: quantization/moments.h). Few terms of a
// sum run in parallel, so both kernels wait for memory. The rows come from the L2, where the copy has just left them.
#include "backends/cuda/loading/moments.h"

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/runtime/launch.h"
#include "core/lanes.h"

namespace tinyllm::cuda {

namespace {

// Few threads have work: small blocks spread them over the SMs.
constexpr int kThreads = 64;
constexpr int kColumnThreads = 32;

// PRECOND: block kThreads; kLanes threads per row, each with one of its sixteen sums.
template <typename Raw>
__global__ void output_moments_kernel(const Raw* raw, const float* moments, int64_t num_rows, int32_t cols,
                                      float* out) {
    const int64_t row = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kLanes;
    const int lane = threadIdx.x % kLanes;
    float sum = 0;
    if (row < num_rows) {
        const Raw* in = raw + row * cols;
#pragma unroll 16
        for (int32_t k = lane; k < cols; k += kLanes) {
            const float value = widen(in[k]);
            sum = __fadd_rn(sum, __fmul_rn(__fmul_rn(value, value), moments[k]));
        }
    }
    float total = 0;
    for (int i = 0; i < kLanes; ++i) total = __fadd_rn(total, __shfl_sync(kFullWarp, sum, i, kLanes));
    if (lane == 0 && row < num_rows) out[row] = total;
}

// PRECOND: one thread per column. The square of a float is exact in double, so FMA changes nothing.
template <typename Raw>
__global__ void add_column_squares_kernel(const Raw* raw, int64_t num_rows, int32_t cols, double* sums) {
    const int64_t col = int64_t{blockIdx.x} * kColumnThreads + threadIdx.x;
    if (col >= cols) return;
    double sum = sums[col];
#pragma unroll 32
    for (int64_t row = 0; row < num_rows; ++row) {
        const double value = widen(raw[row * cols + col]);
        sum += value * value;
    }
    sums[col] = sum;
}

}  // namespace

void output_moments(cudaStream_t cuda_stream, const RawRows& raw, const float* moments, float* out) {
    if (raw.num_rows == 0) return;
    with_raw(raw.dtype, [&](auto type) {
        using Raw = decltype(type);
        output_moments_kernel<Raw><<<ceil_div(raw.num_rows * kLanes, kThreads), kThreads, 0, cuda_stream>>>(
            static_cast<const Raw*>(raw.data), moments, raw.num_rows, static_cast<int32_t>(raw.cols), out);
        TL_CUDA_CHECK_LAUNCH("output_moments_kernel");
    });
}

void add_column_squares(cudaStream_t cuda_stream, const RawRows& raw, double* sums) {
    if (raw.num_rows == 0) return;
    with_raw(raw.dtype, [&](auto type) {
        using Raw = decltype(type);
        add_column_squares_kernel<Raw><<<ceil_div(raw.cols, kColumnThreads), kColumnThreads, 0, cuda_stream>>>(
            static_cast<const Raw*>(raw.data), raw.num_rows, static_cast<int32_t>(raw.cols), sums);
        TL_CUDA_CHECK_LAUNCH("add_column_squares_kernel");
    });
}

}  // namespace tinyllm::cuda
