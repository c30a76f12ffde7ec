#include "backends/cuda/scratch_bytes.h"

#include <algorithm>

#include "backends/cuda/attention/split.h"
#include "backends/cuda/linear/decode_order.h"
#include "backends/cuda/runtime/scratch.h"
#include "backends/cuda/sampling/scratch.h"

namespace tinyllm::cuda {

namespace {

// For any layer of the model; prefill needs none.
int64_t linear_scratch_bytes(const ModelConfig& model, int32_t rows) {
    return std::max({linear_decode_scratch_bytes(model.qkv_dim(), model.hidden_dim, rows),
                     linear_decode_scratch_bytes(model.hidden_dim, model.q_dim(), rows),
                     linear_decode_scratch_bytes(2 * model.intermediate_dim, model.hidden_dim, rows),
                     linear_decode_scratch_bytes(model.hidden_dim, model.intermediate_dim, rows),
                     linear_decode_scratch_bytes(model.vocab_size, model.hidden_dim, rows)});
}

// For decode; prefill needs none.
int64_t attention_scratch_bytes(const ModelConfig& model, const KVCacheConfig& kv) {
    if (!has_tiled_attention(model.head_dim)) return 0;
    return attention_decode_scratch_bytes(kv.max_batch_size, model.num_heads, model.head_dim,
                                          most_splits(kv.pages_per_seq()));
}

}  // namespace

int64_t scratch_bytes(const ModelConfig& model, const EngineConfig& engine) {
    const KVCacheConfig& kv = engine.kv_cache;
    const int64_t sample = static_cast<int64_t>(sizeof(SampleScratch)) * kv.max_batch_size;
    const int64_t largest =
        std::max({linear_scratch_bytes(model, kv.max_batch_size), attention_scratch_bytes(model, kv), sample});
    return kCounterBytes + (largest + kScratchAlign - 1) / kScratchAlign * kScratchAlign;
}

}  // namespace tinyllm::cuda
