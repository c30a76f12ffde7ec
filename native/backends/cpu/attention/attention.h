// Scratch of the CPU's attention op.
#pragma once

#include <cstdint>

namespace tinyllm {
struct KVCacheConfig;
struct ModelShapes;
}  // namespace tinyllm

namespace tinyllm::cpu {

// Bytes of scratch that CpuBackend::attention needs at most for any layer of `model`, on num_threads() threads.
int64_t attention_scratch_bytes(const ModelShapes& model, const KVCacheConfig& kv_cache);

}  // namespace tinyllm::cpu
