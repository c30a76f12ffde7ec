// The random numbers of sampling, the same on host and device.
//
// A token at `position` of a request with `seed` is argmax_t (logit_t / temperature + g_t), where g_t is standard
// Gumbel noise (Gumbel 1954; that this draws from softmax is the "Gumbel-max trick", Yellott 1977). g_t comes from
// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with key = seed and
// counter = (t / 4, position, 0, 0), word t % 4. No state is kept, so a request draws the same tokens alone, batched,
// chunked or after others.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace tinyllm {

struct Philox4 {
    uint32_t word[4];
};
// Multipliers and key increments of Philox4x32, for this function and for vector versions of it.
constexpr uint32_t kPhiloxMul0 = 0xD2511F53u, kPhiloxMul1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxKeyStep0 = 0x9E3779B9u, kPhiloxKeyStep1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

TL_HOST_DEVICE inline Philox4 philox4x32_10(uint64_t seed, uint32_t counter0, uint32_t counter1) {
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    Philox4 c{{counter0, counter1, 0, 0}};
    for (int round = 0; round < kPhiloxRounds; ++round) {
        const uint64_t p0 = static_cast<uint64_t>(kPhiloxMul0) * c.word[0];
        const uint64_t p1 = static_cast<uint64_t>(kPhiloxMul1) * c.word[2];
        c = {{static_cast<uint32_t>(p1 >> 32) ^ c.word[1] ^ key0, static_cast<uint32_t>(p1),
              static_cast<uint32_t>(p0 >> 32) ^ c.word[3] ^ key1, static_cast<uint32_t>(p0)}};
        key0 += kPhiloxKeyStep0;
        key1 += kPhiloxKeyStep1;
    }
    return c;
}

// Uniform in (0, 1) from 23 bits, exact in float: (bits + 1/2) / 2^23.
TL_HOST_DEVICE inline float uniform_open(uint32_t word) {
    return (static_cast<float>(word >> 9) + 0.5f) * (1.0f / 8388608.0f);
}

// Standard Gumbel noise of a random word. Its range is [kGumbelMin, kGumbelMax].
TL_HOST_DEVICE inline float gumbel(uint32_t word) { return -logf(-logf(uniform_open(word))); }
constexpr float kGumbelMin = -2.9f;  // -log(-log(2^-24)) = -2.81
constexpr float kGumbelMax = 16.7f;  // -log(-log(1 - 2^-24)) = 16.64

}  // namespace tinyllm
