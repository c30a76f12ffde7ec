// The epilogue of the decode kernels for many tokens.
#pragma once

#include "backends/cuda/linear/decode_weight.cuh"
#include "backends/cuda/linear/output.cuh"

namespace tinyllm::cuda {

// Writes the sums of the block's kBlockRows weight rows. They lie in shared memory, `results` float [tokens, kPitch],
// so that neighbouring threads write neighbouring outputs. With split-K the sums go to `partial`, float [k_splits,
// tokens, n_padded]; otherwise y goes to `out`. PRECOND: the block's first kThreads threads call; blockIdx.x counts the
// blocks of weight rows, blockIdx.y the K splits.
template <typename T, int kBlockRows, int kPitch, int kThreads>
__device__ void store_results(const DecodeWeight& weight, const LinearOutput& out, float* partial, const float* results,
                              int32_t tokens) {
    const int32_t n_padded = weight.num_tiles * kTileRows;
#pragma unroll 1
    for (int i = threadIdx.x; i < tokens * (kBlockRows / 2); i += kThreads) {
        const int token = i / (kBlockRows / 2), output = i % (kBlockRows / 2) * 2;
        const int32_t first = blockIdx.x * kBlockRows + output;
        if (first >= n_padded) continue;
        const float2 y = *reinterpret_cast<const float2*>(results + token * kPitch + output);
        if (weight.k_splits > 1) {
            *reinterpret_cast<float2*>(partial + (int64_t{blockIdx.y} * tokens + token) * n_padded + first) = y;
        } else {
            Addend<T> addend;
            addend.read(out, weight.n, token, first);
            write_outputs<T>(out, weight.bias, weight.n, token, first, y, addend);
        }
    }
}

}  // namespace tinyllm::cuda
