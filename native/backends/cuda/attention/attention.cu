// Which kernel computes attention.
#include "backends/cuda/attention/attention.h"

#include "backends/cuda/attention/any_head_dim.h"
#include "backends/cuda/attention/tiled.h"
#include "core/error.h"

namespace tinyllm::cuda {

namespace {

bool takes_tiled(Phase phase, int32_t head_dim) {
    if (!has_tiled_attention(head_dim)) return false;
    const int32_t needed =
        phase == Phase::Decode ? attention_decode_shared_bytes(head_dim) : attention_prefill_shared_bytes(head_dim);
    return needed <= device_traits().max_shared_bytes;
}

}  // namespace

bool has_fused_rope(Phase phase, int32_t head_dim) { return phase == Phase::Decode && takes_tiled(phase, head_dim); }

void attention(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch, const AttentionShape& shape,
               const LaunchHints& hints, const DecodeRope& rope, DType activation, const void* qkv, const KvLayer& kv,
               void* out) {
    if (batch.num_rows == 0) return;
    TL_CHECK(rope.newest == NewestToken::InCache || has_fused_rope(batch.phase, shape.head_dim));
    if (!takes_tiled(batch.phase, shape.head_dim))
        attention_any_head_dim(cuda_stream, batch, shape, activation, qkv, kv, out);
    else if (batch.phase == Phase::Decode)
        attention_decode(cuda_stream, scratch, batch, shape, hints, rope, activation, qkv, kv, out);
    else
        attention_prefill(cuda_stream, batch, shape, activation, qkv, kv, out);
}

}  // namespace tinyllm::cuda
