// Scratch of the CPU's attention op.
#pragma once

#include <cstdint>

#include "config/config.h"

namespace tinyllm::cpu {

// Bytes of scratch that CpuBackend::attention needs at most for `model` under `engine`, on num_threads() threads.
int64_t attention_scratch_bytes(const ModelConfig& model, const EngineConfig& engine);

}  // namespace tinyllm::cpu
