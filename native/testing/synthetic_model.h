// A model with made-up weights that is loaded the way a checkpoint is, and made-up token ids.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/runner.h"

namespace tinyllm::testing {

struct LoadResult {
    double seconds;        // spent in the engine
    uint64_t bytes;        // of the checkpoint: each of its 16-bit tensors once
    uint64_t block_bytes;  // of host memory that stand for the checkpoint's file
};

// Hands over random float16 tensors for every name of the configuration, in the order of the forward pass, and ends the
// load. Values are scaled so that activations stay finite; no weight is zero. The values lie in one block, as large as
// the checkpoint but at most 1 GB, through which the tensors pass, so that they come from memory and not from a cache.
LoadResult load_synthetic(Runner& runner);

// Random token ids.
std::vector<int32_t> random_tokens(int32_t count, int32_t vocab_size, uint64_t seed);

}  // namespace tinyllm::testing
