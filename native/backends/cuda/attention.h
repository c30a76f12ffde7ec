// Attention over the paged KV cache on the GPU (layout: runtime/kv_cache.h).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/scratch.h"
#include "core/dtype.h"
#include "model/config.h"
#include "ops/ops.h"

namespace tinyllm {

// Enqueues out[r, h] = softmax(softmax_scale * q[r, h] . K^T) V over the positions that row r sees:
// (positions[r] - window, positions[r]], or [0, positions[r]] without a window. The keys and values of the step's own
// rows are already in the cache.
//   activation: type T of qkv, of the cache and of out: F16 or BF16
//   qkv: T [num_rows, shape.qkv_dim()], of which the first num_heads * head_dim of a row are read
//   out: T [num_rows, num_heads * head_dim]
// A padding row (slot -1) reads no cache; its output is zero. The arrays of `batch` are device memory. For
// Phase::Decode the order of summation of a row depends on its own length and the shape only. Throws CudaError where a
// launch fails.
void attention_cuda(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch, const AttentionShape& shape,
                    DType activation, const void* qkv, const KvLayer& kv, void* out);

}  // namespace tinyllm
