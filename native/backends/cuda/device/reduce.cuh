// Reductions over a warp and a block. Their order is fixed, so equal inputs give equal bits.
#pragma once

#include <cstdint>

namespace tinyllm::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

// The warp's index in its block, in a form that the compiler knows to be the same in all lanes.
__device__ inline int warp_index() { return __shfl_sync(kFullWarp, static_cast<int>(threadIdx.x) / kWarpSize, 0); }

struct Sum {
    __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
    template <typename T>
    __device__ T operator()(T a, T b) const {
        return a > b ? a : b;
    }
};

// Every lane gets the result.
template <typename T, typename Op>
__device__ inline T warp_reduce(T value, Op op) {
#pragma unroll
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2)
        value = op(value, __shfl_xor_sync(kFullWarp, value, offset));
    return value;
}

// Every thread gets the result. PRECOND: blockDim.x is a multiple of 32, all threads call; `shared` holds 32 elements
// that may be reused right after the call.
template <typename T, typename Op>
__device__ inline T block_reduce(T value, Op op, T* shared) {
    value = warp_reduce(value, op);
    const int num_warps = blockDim.x / kWarpSize;
    if (threadIdx.x % kWarpSize == 0) shared[threadIdx.x / kWarpSize] = value;
    __syncthreads();
    T result = shared[0];
    for (int warp = 1; warp < num_warps; ++warp) result = op(result, shared[warp]);
    __syncthreads();
    return result;
}

}  // namespace tinyllm::cuda
