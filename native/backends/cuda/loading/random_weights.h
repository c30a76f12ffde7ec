// Made-up weights on the GPU: quantization/random_weights.h in the packed layout.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/ops.h"

namespace tinyllm::cuda {

// Enqueues Backend::fill_random; what pads the layout becomes zero. Throws CudaError.
void fill_random(cudaStream_t cuda_stream, const LinearWeight& weight, uint64_t seed);

}  // namespace tinyllm::cuda
