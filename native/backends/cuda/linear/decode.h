// The linear layer of a decode step: few tokens, bound by reading the weights. The norm of x is fused where that is
// faster.
#pragma once

#include "backends/cuda/linear/linear.h"

namespace tinyllm::cuda {

// As linear for Phase::Decode and any number of tokens: the weights are read once per 64 tokens. With a norm, x is
// contiguous (x_row_stride == weight.k).
// Rounding: the sum over k of a token has the same order whatever `tokens` is (linear/decode_order.h). Throws
// CudaError.
void linear_decode(cudaStream_t cuda_stream, Scratch scratch, DType activation, const LinearWeight& weight,
                   const InputNorm& norm, const void* x, int64_t x_row_stride, int64_t tokens, const LinearOutput& out);

}  // namespace tinyllm::cuda
