// How much scratch memory the kernels need. Arithmetic only, without CUDA headers: a library without the CUDA backend
// plans for a GPU too (backends/registry.h).
#pragma once

#include <cstdint>

#include "config/config.h"

namespace tinyllm::cuda {

// Bytes to bind with Backend::bind_scratch: the counters, and behind them what the most demanding operation needs.
int64_t scratch_bytes(const ModelConfig& model, const EngineConfig& engine);

}  // namespace tinyllm::cuda
