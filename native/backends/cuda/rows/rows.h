// Launchers of the ops that work on single rows (rows/*.cu) and of Ops::sample (sampling/sample.cu).
// Meaning and shapes as in ops/ops.h; linear/linear.h and attention/attention.h declare the others. All throw CudaError
// where a launch fails.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/runtime/scratch.h"
#include "core/dtype.h"
#include "ops/ops.h"

namespace tinyllm::cuda {

// Ops::embed.
void embed(cudaStream_t cuda_stream, const StepBatch& batch, const LinearWeight& table, uint32_t* seen, void* hidden);

// Ops::rope_table.
void rope_table(cudaStream_t cuda_stream, const StepBatch& batch, const RopeParams& rope, float* cos_sin);

// out[i] = RMSNorm(x[rows[i]]), or of x[i] where `rows` (device memory, [num_rows]) is null.
//   x: T [.., dim]; out: T [num_rows, dim]
void rms_norm(cudaStream_t cuda_stream, DType activation, const NormWeight& norm, int32_t dim, const void* x,
              const int32_t* rows, int32_t num_rows, void* out);

// The part of Ops::qkv after the linear layer: per-head norms, RoPE, q in place, k and v into the cache.
void rope_append(cudaStream_t cuda_stream, const StepBatch& batch, const QkvWeights& weights,
                 const AttentionShape& shape, int32_t rotary_dim, const float* cos_sin, void* qkv, const KvLayer& kv);

// Ops::sample.
void sample(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch, int32_t vocab_size, const uint32_t* seen,
            const float* logits, SampledToken* out);

}  // namespace tinyllm::cuda
