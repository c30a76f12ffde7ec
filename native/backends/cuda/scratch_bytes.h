// How much scratch memory the kernels need. Arithmetic only, without CUDA headers: a library without the CUDA backend
// plans for a GPU too (backends/registry.h).
#pragma once

#include <cstdint>

namespace tinyllm {
struct KVCacheConfig;
struct ModelShapes;
}  // namespace tinyllm

namespace tinyllm::cuda {

// Bytes to bind with Backend::bind_scratch: the counters, and behind them what the most demanding operation needs.
int64_t scratch_bytes(const ModelShapes& model, const KVCacheConfig& kv_cache);

}  // namespace tinyllm::cuda
