// The linear layer written for reading: the reference of the tuned kernels on the device.
#pragma once

#include "backends/cuda/linear.h"

namespace tinyllm {

// As linear_cuda; any shape and number of rows, no scratch.
void linear_simple_cuda(cudaStream_t cuda_stream, DType activation, const LinearWeight& weight, const void* x,
                        int64_t x_row_stride, int64_t rows, const LinearOutput& out);

}  // namespace tinyllm
