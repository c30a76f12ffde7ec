// Which kernel computes a linear layer.
#include "backends/cuda/linear.h"

#include <algorithm>

#include "backends/cuda/linear_decode.h"
#include "backends/cuda/linear_prefill.h"
#include "backends/cuda/ops.h"

namespace tinyllm {

void linear_cuda(cudaStream_t cuda_stream, Scratch scratch, Phase phase, DType activation, const LinearWeight& weight,
                 const void* x, int64_t x_row_stride, int64_t rows, const LinearOutput& out) {
    if (rows == 0) return;
    if (phase == Phase::Decode)
        linear_decode_cuda(cuda_stream, scratch, activation, weight, {}, x, x_row_stride, rows, out);
    else
        linear_prefill_cuda(cuda_stream, activation, weight, x, x_row_stride, rows, out);
}

void normed_linear_cuda(cudaStream_t cuda_stream, Scratch scratch, Phase phase, DType activation, const InputNorm& norm,
                        const LinearWeight& weight, const void* x, int64_t rows, const LinearOutput& out) {
    if (rows == 0) return;
    if (phase == Phase::Decode)
        return linear_decode_cuda(cuda_stream, scratch, activation, weight, norm, x, weight.k, rows, out);
    rms_norm_cuda(cuda_stream, activation, norm.norm, weight.k, x, norm.row_index, static_cast<int32_t>(rows),
                  norm.normed);
    linear_prefill_cuda(cuda_stream, activation, weight, norm.normed, weight.k, rows, out);
}

}  // namespace tinyllm
