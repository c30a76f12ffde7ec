// Second moments of a checkpoint tensor on the GPU: quantization/moments.h, with the same bits.
#pragma once

#include <cuda_runtime_api.h>

#include "backends/cuda/loading/quantize.h"

namespace tinyllm::cuda {

// Enqueues output_moments() of the rows of `raw`. moments: [raw.cols]; out: [raw.num_rows], written; device memory.
// Throws CudaError.
void output_moments(cudaStream_t cuda_stream, const RawRows& raw, const float* moments, float* out);

// Enqueues the addition of the square of each value to the sum of its column, rows in ascending order. sums: [raw.cols]
// in device memory. Throws CudaError.
void add_column_squares(cudaStream_t cuda_stream, const RawRows& raw, double* sums);

}  // namespace tinyllm::cuda
