// Scratch of the CPU's attention op.
#pragma once

#include <cstdint>

#include "model/config.h"

namespace tinyllm {

// Bytes of scratch that CpuBackend::attention needs at most for `model` under `engine`, on num_threads() threads.
int64_t cpu_attention_scratch_bytes(const ModelConfig& model, const EngineConfig& engine);

}  // namespace tinyllm
