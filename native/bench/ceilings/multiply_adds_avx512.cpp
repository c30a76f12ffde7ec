#include <immintrin.h>

#include "bench/ceilings/multiply_adds.h"

namespace tinyllm::bench {

double multiply_adds_avx512(int64_t rounds, float& sink) {
    constexpr int kChains = 10;  // two units with a latency of four cycles need at least eight
    __m512 chains[kChains];
    for (int c = 0; c < kChains; ++c) chains[c] = _mm512_set1_ps(sink + static_cast<float>(c));
    const __m512 scale = _mm512_set1_ps(0.999f), step = _mm512_set1_ps(sink * 1e-3f);
    for (int64_t i = 0; i < rounds; ++i)
        for (int c = 0; c < kChains; ++c) chains[c] = _mm512_fmadd_ps(chains[c], scale, step);
    alignas(64) float lanes[16];
    for (const __m512& chain : chains) {
        _mm512_store_ps(lanes, chain);
        sink += lanes[0];
    }
    return 2.0 * kChains * 16 * static_cast<double>(rounds);
}

}  // namespace tinyllm::bench
