// How much scratch memory the kernels need. Arithmetic only, without CUDA headers: a library without the CUDA backend
// plans for a GPU too (ops/registry.h).
#pragma once

#include <cstdint>

#include "model/config.h"

namespace tinyllm {

// Rows of x that linear_decode_many takes at a time at most: so many rows have partial sums at once.
constexpr int kManyRows = 64;

// Bytes of Scratch::data that linear_decode_cuda needs for a weight [n, k].
int64_t linear_decode_scratch_bytes(int32_t n, int32_t k, int64_t rows);

// Bytes to bind with Backend::bind_scratch: the counters, and behind them what the most demanding operation needs.
int64_t cuda_scratch_bytes(const ModelConfig& model, const EngineConfig& engine);

}  // namespace tinyllm
