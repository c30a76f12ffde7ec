// Attention for the shapes that have no kernel of their own (attention_split.h).
#pragma once

#include "backends/cuda/attention.h"

namespace tinyllm {

// As attention_cuda; any head_dim, no scratch.
void attention_simple_cuda(cudaStream_t cuda_stream, const StepBatch& batch, const AttentionShape& shape,
                           DType activation, const void* qkv, const KvLayer& kv, void* out);

}  // namespace tinyllm
