// The linear layer for prompts: a GEMM over many tokens, bound by arithmetic.
//
// Two kernels on tensor cores. Which one runs depends on the device, on the weight's shape and on the alignment of x,
// never on the number of tokens; within a kernel the sum over k is taken in ascending blocks whatever the tile, so the
// bits of a token do not depend on the other tokens.
#pragma once

#include "backends/cuda/linear/linear.h"

namespace tinyllm::cuda {

// As linear for Phase::Prefill; no scratch. Throws CudaError where a launch fails.
void linear_prefill(cudaStream_t cuda_stream, DType activation, const LinearWeight& weight, const void* x,
                    int64_t x_row_stride, int64_t tokens, const LinearOutput& out);

// mma.sync and cp.async: any device, shape and alignment.
void linear_prefill_sm80(cudaStream_t cuda_stream, DType activation, const LinearWeight& weight, const void* x,
                         int64_t x_row_stride, int64_t tokens, const LinearOutput& out);

// wgmma and TMA: compute capability 9.0, code for sm_90a, x with 16-byte aligned rows and k % 8 == 0.
void linear_prefill_sm90(cudaStream_t cuda_stream, DType activation, const LinearWeight& weight, const void* x,
                         int64_t x_row_stride, int64_t tokens, const LinearOutput& out);

}  // namespace tinyllm::cuda
