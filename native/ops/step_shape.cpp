#include "ops/step_shape.h"

#include <algorithm>

#include "config/engine_config.h"
#include "config/model_config.h"

namespace tinyllm {

namespace {

// When activations are recomputed a layer works on a quarter of the rows at a time, which leaves about 0.4 of the
// activation bytes; 256 rows keep the matrix kernels busy, so that tiles need not be larger.
constexpr int32_t kRecomputeTiles = 4;
constexpr int32_t kMaxRecomputeTileRows = 256;
// Rows of logits for prompt_logits requests, so that the output matrix is not read once per row.
constexpr int32_t kMinLogitsRows = 16;

}  // namespace

StepShape step_shape(const ModelConfig& model, const EngineConfig& engine) {
    const KVCacheConfig& kv = engine.kv_cache;
    const int64_t all_tokens = static_cast<int64_t>(kv.max_batch_size) * kv.max_seq_len;
    StepShape shape;
    shape.max_rows = static_cast<int32_t>(
        std::max<int64_t>(kv.max_batch_size, std::min<int64_t>(engine.max_step_tokens, all_tokens)));
    const int32_t quarter = (shape.max_rows + kRecomputeTiles - 1) / kRecomputeTiles;
    shape.tile_rows = model.recompute_activations
                          ? std::max(kv.max_batch_size, std::min(kMaxRecomputeTileRows, quarter))
                          : shape.max_rows;
    shape.logits_rows = std::max(kv.max_batch_size, std::min(kMinLogitsRows, shape.max_rows));
    return shape;
}

}  // namespace tinyllm
