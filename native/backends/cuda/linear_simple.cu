// y = x W^T + b without tensor cores: a warp computes two neighbouring outputs (a gate and its up) for a few rows of x.
//
//   x: T [rows, k]; weight: int8 or T [n_padded, k_padded] packed, scales f16 [groups, n_padded]
// Lanes split k; each lane's partial sum runs over k in ascending order and the lanes are joined by a fixed tree, so a
// row's bits do not depend on the other rows. Reads the weights once every kRowTile rows.
#include "backends/cuda/linear_simple.h"

#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/launch.cuh"
#include "backends/cuda/device/packed_weight.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/linear_output.cuh"

namespace tinyllm {

namespace {

constexpr int kWarps = 4;
constexpr int kRowTile = 4;
constexpr int kOutputs = 2;  // of a warp

// PRECOND: grid (ceil(n / (kWarps * kOutputs)), ceil(rows / kRowTile)), block kWarps * 32.
template <typename T>
__global__ void linear_simple_kernel(PackedWeight weight, const float* bias, const T* x, int64_t x_row_stride,
                                     int64_t rows, LinearOutput out) {
    wait_for_predecessor();
    release_successor();
    const int lane = threadIdx.x % kWarpSize;
    const int32_t first = (blockIdx.x * kWarps + threadIdx.x / kWarpSize) * kOutputs;
    const int64_t first_row = int64_t{blockIdx.y} * kRowTile;
    if (first >= weight.n) return;

    float sums[kRowTile][kOutputs] = {};
    for (int32_t k = lane; k < weight.k; k += kWarpSize) {
        float w[kOutputs];
        for (int i = 0; i < kOutputs; ++i) w[i] = weight.value<T>(first + i, k);  // padded rows are zero
#pragma unroll
        for (int r = 0; r < kRowTile; ++r) {
            if (first_row + r >= rows) break;
            const float value = widen(x[(first_row + r) * x_row_stride + k]);
            for (int i = 0; i < kOutputs; ++i) sums[r][i] += value * w[i];
        }
    }
#pragma unroll
    for (int r = 0; r < kRowTile; ++r) {
        const float y0 = warp_reduce(sums[r][0], Sum{}), y1 = warp_reduce(sums[r][1], Sum{});
        if (lane != 0 || first_row + r >= rows) continue;
        Addend<T> addend;
        addend.read(out, weight.n, first_row + r, first);
        write_outputs<T>(out, bias, weight.n, first_row + r, first, {y0, y1}, addend);
    }
}

}  // namespace

void linear_simple_cuda(cudaStream_t cuda_stream, DType activation, const LinearWeight& weight, const void* x,
                        int64_t x_row_stride, int64_t rows, const LinearOutput& out) {
    const LaunchShape shape{dim3(ceil_div(weight.n, kWarps * kOutputs), ceil_div(rows, kRowTile)), kWarps * kWarpSize};
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        launch_overlapped("launch of linear_simple_kernel", linear_simple_kernel<T>, shape, cuda_stream,
                          PackedWeight(weight), weight.bias, static_cast<const T*>(x), x_row_stride, rows, out);
    });
}

}  // namespace tinyllm
