// All layers of a decode step in one kernel: decode_layers.cu.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "backends/cuda/scratch.h"
#include "ops/ops.h"

namespace tinyllm {

// Ops::decode_layers. Throws CudaError where a launch fails.
bool decode_layers_cuda(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch,
                        const std::vector<DecodeLayer>& layers, const RopeParams& rope, const DecodeBuffers& buffers);

}  // namespace tinyllm
