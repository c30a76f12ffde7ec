// A model with made-up weights, loaded the way a checkpoint is.
#pragma once

#include <cstdint>

#include "bench/options.h"
#include "runtime/engine.h"

namespace tinyllm::bench {

struct LoadResult {
    double seconds;
    uint64_t bytes;  // of the 16-bit tensors handed over
};

// Hands over random 16-bit tensors for every name of the configuration. Values are scaled so that activations keep
// their size through the layers; no weight is zero.
LoadResult load_synthetic(Engine& engine);

// Random token ids.
std::vector<int32_t> random_tokens(int32_t count, int32_t vocab_size, uint64_t seed);

}  // namespace tinyllm::bench
