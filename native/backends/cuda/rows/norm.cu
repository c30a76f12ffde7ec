// RMSNorm of rows: out[i] = x[rows[i]] / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019), in fp32.
//
//   x: T [.., dim]; rows: int32 [num_rows] or null; weight: float [dim]; out: T [num_rows, dim]
// Reads and writes one row each: bound by the launch for one row, by memory for many. A block takes a row; its size
// depends on dim alone, so the order of the sum does too.
#include <algorithm>

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/rows/rows.h"
#include "backends/cuda/runtime/launch.h"

namespace tinyllm::cuda {

namespace {

constexpr int kMaxThreads = 1024;
// Vectors that a thread keeps in registers between the two passes. Longer rows are read a second time.
constexpr int kHeld = 2;

// PRECOND: grid (num_rows), block a multiple of 32; dim is a multiple of kVector, rows are aligned to that many
// elements.
template <typename T, int kVector>
__global__ void rms_norm_kernel(const float* weight, float eps, int32_t dim, const T* x, const int32_t* rows, T* out) {
    using Elements = Vector<T, kVector>;
    __shared__ float shared[kWarpSize];
    wait_for_predecessor();
    release_successor();
    const int32_t source = rows == nullptr ? blockIdx.x : rows[blockIdx.x];
    const auto* in = reinterpret_cast<const Elements*>(x + int64_t{source} * dim);
    auto* result = reinterpret_cast<Elements*>(out + int64_t{blockIdx.x} * dim);
    const int32_t num_vectors = dim / kVector;

    Elements held[kHeld];
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
        const int32_t at = threadIdx.x + i * blockDim.x;
        if (at >= num_vectors) break;
        held[i] = in[at];
#pragma unroll
        for (int e = 0; e < kVector; ++e) sum += widen(held[i].element[e]) * widen(held[i].element[e]);
    }
    for (int32_t at = threadIdx.x + kHeld * blockDim.x; at < num_vectors; at += blockDim.x) {
        const Elements elements = in[at];
#pragma unroll
        for (int e = 0; e < kVector; ++e) sum += widen(elements.element[e]) * widen(elements.element[e]);
    }
    const float factor = rsqrtf(block_reduce(sum, Sum{}, shared) / static_cast<float>(dim) + eps);

    const auto write = [&](int32_t at, Elements elements) {
#pragma unroll
        for (int e = 0; e < kVector; ++e)
            elements.element[e] = round_to<T>(widen(elements.element[e]) * factor * weight[at * kVector + e]);
        result[at] = elements;
    };
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
        const int32_t at = threadIdx.x + i * blockDim.x;
        if (at < num_vectors) write(at, held[i]);
    }
    for (int32_t at = threadIdx.x + kHeld * blockDim.x; at < num_vectors; at += blockDim.x) write(at, in[at]);
}

template <typename T, int kVector>
void launch(cudaStream_t cuda_stream, const NormWeight& norm, int32_t dim, const void* x, const int32_t* rows,
            int32_t num_rows, void* out) {
    const unsigned wanted = ceil_div(dim / kVector, kWarpSize) * kWarpSize;
    const unsigned threads = std::min<unsigned>(kMaxThreads, wanted);
    launch_overlapped("launch of rms_norm_kernel", rms_norm_kernel<T, kVector>,
                      {static_cast<unsigned>(num_rows), threads}, cuda_stream, norm.weight, norm.eps, dim,
                      static_cast<const T*>(x), rows, static_cast<T*>(out));
}

}  // namespace

void rms_norm(cudaStream_t cuda_stream, DType activation, const NormWeight& norm, int32_t dim, const void* x,
              const int32_t* rows, int32_t num_rows, void* out) {
    if (num_rows == 0) return;
    constexpr int kWide = 8;  // 16 bytes
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        if (dim % kWide == 0)
            launch<T, kWide>(cuda_stream, norm, dim, x, rows, num_rows, out);
        else
            launch<T, 1>(cuda_stream, norm, dim, x, rows, num_rows, out);
    });
}

}  // namespace tinyllm::cuda
