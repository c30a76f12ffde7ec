// What a model and an engine may have at most, far beyond what exists and such that no size overflows; and the page.
#pragma once

#include <cstdint>

namespace tinyllm {

constexpr int32_t kMaxWidth = 1 << 20;  // hidden_dim, intermediate_dim, all query heads together
constexpr int32_t kMaxHeadDim = 512;
constexpr int32_t kMaxVocabSize = 1 << 22;
constexpr int32_t kMaxLayers = 1024;
constexpr int32_t kMaxBatchSize = 4096;
constexpr int32_t kMaxSeqLen = 1 << 24;

// KV pages hold this many tokens. It divides the usual contexts, and is one tile of the attention kernels.
constexpr int32_t kPageTokens = 64;

}  // namespace tinyllm
