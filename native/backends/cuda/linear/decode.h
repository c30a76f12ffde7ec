// The linear layer of a decode step: few tokens, bound by reading the weights, with the norm of x where it pays.
#pragma once

#include "backends/cuda/linear/linear.h"

namespace tinyllm::cuda {

// As linear for Phase::Decode and any number of rows: the weights are read once every 64 tokens. With a norm, x is
// contiguous (x_row_stride == weight.k).
// Rounding: a row is summed in the same order whatever `tokens` is (linear/decode_order.h). Throws CudaError.
void linear_decode(cudaStream_t cuda_stream, Scratch scratch, DType activation, const LinearWeight& weight,
                   const InputNorm& norm, const void* x, int64_t x_row_stride, int64_t tokens, const LinearOutput& out);

}  // namespace tinyllm::cuda
