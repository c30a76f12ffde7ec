// Attention for the shapes that have no kernel of their own (attention/split.h).
#pragma once

#include "backends/cuda/attention/attention.h"

namespace tinyllm::cuda {

// As attention; any head_dim, no scratch.
void attention_any_head_dim(cudaStream_t cuda_stream, const StepBatch& batch, const AttentionShape& shape,
                            DType activation, const void* qkv, const KvLayer& kv, void* out);

}  // namespace tinyllm::cuda
