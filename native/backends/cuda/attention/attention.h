// Attention over the paged KV cache on the GPU (layout: ops/kv_cache.h).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/runtime/scratch.h"
#include "core/dtype.h"
#include "ops/ops.h"

namespace tinyllm::cuda {

// Where decode attention finds the step's own keys and values.
enum class NewestToken : int32_t {
    InCache,  // and the queries are finished
    InQkv,    // as the QKV matrix gave them: norms, RoPE and the append to the cache are still to come
};

struct DecodeRope {
    NewestToken newest = NewestToken::InCache;
    NormWeight q_norm, k_norm;
    const float* cos_sin = nullptr;  // float [num_rows, 2, rotary_dim / 2]
    int32_t rotary_dim = 0;
};

// Enqueues out[r, h] = softmax(softmax_scale * q[r, h] . K^T) V over the positions that row r sees:
// (positions[r] - window, positions[r]], or [0, positions[r]] without a window.
//   activation: type T of qkv, of the cache and of out: F16 or BF16
//   qkv: T [num_rows, shape.qkv_dim()]; without the step's own keys and values only its q part is read
//   out: T [num_rows, num_heads * head_dim]
// InQkv, which has_fused_rope() must allow, does what Ops::qkv does after its matrix on the way; qkv is left as it was.
// A padding row (slot -1) reads and appends nothing; its output is zero. The arrays of `batch` are device memory. For
// Phase::Decode the order of summation of a row depends on its own length and the shape only. Throws CudaError where a
// launch fails.
void attention(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch, const AttentionShape& shape,
               const LaunchHints& hints, const DecodeRope& rope, DType activation, const void* qkv, const KvLayer& kv,
               void* out);

// Whether attention can do RoPE and the append to the cache on the way.
bool has_fused_rope(Phase phase, int32_t head_dim);

}  // namespace tinyllm::cuda
