// Attention written for reading: the reference of the tuned kernels on the device.
#pragma once

#include "backends/cuda/attention.h"

namespace tinyllm {

// As attention_cuda; any shape with head_dim up to 256, no scratch.
void attention_simple_cuda(cudaStream_t cuda_stream, const StepBatch& batch, const AttentionShape& shape,
                           DType activation, const void* qkv, const KvLayer& kv, void* out);

}  // namespace tinyllm
