// Made-up weights for benchmarks: the same on every device, made where they are needed.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/dtype.h"
#include "core/host_device.h"

namespace tinyllm {

constexpr int32_t kRandomBlock = 8;  // weights made from one random number

// Eight random bytes for the weights (row, kRandomBlock * block) and following of a matrix of `num_blocks` blocks
// per row: splitmix64 (Steele, Lea and Flood, OOPSLA 2014), a mix of a counter, so that any part can be made by any
// thread.
TL_HOST_DEVICE constexpr uint64_t random_bits(uint64_t seed, int64_t row, int64_t num_blocks, int64_t block) {
    uint64_t x = seed * 0xD1342543DE82EF95ull + static_cast<uint64_t>(row * num_blocks + block);
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

// Weight `index` of the eight: -127 to 127, never 0 (1 and -127 come twice as often as others).
TL_HOST_DEVICE constexpr int32_t random_weight(uint64_t bits, int32_t index) {
    const int32_t value = static_cast<int32_t>(bits >> (8 * index) & 0xff) - 128;
    return value == 0 ? 1 : value == -128 ? -127 : value;
}

// The scale of all groups: weights then have variance 1 / k, which keeps the size of activations from layer to layer.
inline f16 random_weight_scale(int32_t k) {
    constexpr float kDeviation = 73.9f;  // of random_weight()
    return from_float<f16>(1.0f / (kDeviation * std::sqrt(static_cast<float>(k))));
}

}  // namespace tinyllm
