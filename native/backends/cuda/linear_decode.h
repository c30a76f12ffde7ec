// The linear layer of a decode step: few rows of x, bound by reading the weights, with the norm of x where it pays.
#pragma once

#include "backends/cuda/linear.h"
#include "backends/cuda/scratch_bytes.h"

namespace tinyllm {

// As linear_cuda for Phase::Decode and any number of rows: the weights are read once every 64 rows. With a norm, x is
// contiguous (x_row_stride == weight.k).
// Rounding: a row is summed in the same order whatever `rows` is (linear_decode_split.h). Throws CudaError.
void linear_decode_cuda(cudaStream_t cuda_stream, Scratch scratch, DType activation, const LinearWeight& weight,
                        const InputNorm& norm, const void* x, int64_t x_row_stride, int64_t rows,
                        const LinearOutput& out);

}  // namespace tinyllm
