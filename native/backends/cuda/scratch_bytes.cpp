#include "backends/cuda/scratch_bytes.h"

#include <algorithm>

#include "backends/cuda/attention/split.h"
#include "backends/cuda/linear/decode_order.h"
#include "backends/cuda/runtime/scratch.h"
#include "backends/cuda/sampling/scratch.h"
#include "config/engine_config.h"
#include "ops/model_shapes.h"

namespace tinyllm::cuda {

namespace {

// For any matrix of the model; prefill needs none.
int64_t linear_scratch_bytes(const ModelShapes& model, int32_t rows) {
    int64_t most = 0;
    for (const MatrixShape& matrix : model.matrices)
        most = std::max(most, linear_decode_scratch_bytes(matrix.n, matrix.k, rows));
    return most;
}

// For decode; prefill needs none.
int64_t attention_scratch_bytes(const ModelShapes& model, const KVCacheConfig& kv_cache) {
    int64_t most = 0;
    for (const AttentionShape& shape : model.attentions)
        if (has_tiled_attention(shape.head_dim))
            most =
                std::max(most, attention_decode_scratch_bytes(kv_cache.max_batch_size, shape.num_heads, shape.head_dim,
                                                              most_splits(kv_cache.pages_per_seq())));
    return most;
}

}  // namespace

int64_t scratch_bytes(const ModelShapes& model, const KVCacheConfig& kv_cache) {
    const int32_t rows = kv_cache.max_batch_size;
    const int64_t sample = static_cast<int64_t>(sizeof(SampleScratch)) * rows;
    const int64_t largest =
        std::max({linear_scratch_bytes(model, rows), attention_scratch_bytes(model, kv_cache), sample});
    return kCounterBytes + (largest + kScratchAlign - 1) / kScratchAlign * kScratchAlign;
}

}  // namespace tinyllm::cuda
