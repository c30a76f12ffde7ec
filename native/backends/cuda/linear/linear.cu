// Which kernel computes a linear layer.
#include "backends/cuda/linear/linear.h"

#include <algorithm>

#include "backends/cuda/linear/decode.h"
#include "backends/cuda/linear/prefill.h"
#include "backends/cuda/rows/rows.h"

namespace tinyllm::cuda {

void linear(cudaStream_t cuda_stream, Scratch scratch, Phase phase, DType activation, const LinearWeight& weight,
            const void* x, int64_t x_row_stride, int64_t tokens, const LinearOutput& out) {
    if (tokens == 0) return;
    if (phase == Phase::Decode)
        linear_decode(cuda_stream, scratch, activation, weight, {}, x, x_row_stride, tokens, out);
    else
        linear_prefill(cuda_stream, activation, weight, x, x_row_stride, tokens, out);
}

void normed_linear(cudaStream_t cuda_stream, Scratch scratch, Phase phase, DType activation, const InputNorm& norm,
                   const LinearWeight& weight, const void* x, int64_t tokens, const LinearOutput& out) {
    if (tokens == 0) return;
    if (phase == Phase::Decode)
        return linear_decode(cuda_stream, scratch, activation, weight, norm, x, weight.k, tokens, out);
    rms_norm(cuda_stream, activation, norm.norm, weight.k, x, norm.row_index, static_cast<int32_t>(tokens),
             norm.normed);
    linear_prefill(cuda_stream, activation, weight, norm.normed, weight.k, tokens, out);
}

}  // namespace tinyllm::cuda
