#include <immintrin.h>

#include "backends/cpu/measure.h"

namespace tinyllm {

double multiply_adds_avx512bf16(int64_t rounds, float& sink) {
    constexpr int kChains = 10;  // two units with a latency of four cycles need at least eight
    __m512 chains[kChains];
    for (int c = 0; c < kChains; ++c) chains[c] = _mm512_set1_ps(sink + static_cast<float>(c));
    const __m512 values = _mm512_set1_ps(sink * 1e-3f);
    const __m512bh a = _mm512_cvtne2ps_pbh(values, values), b = _mm512_cvtne2ps_pbh(values, chains[1]);
    for (int64_t i = 0; i < rounds; ++i)
        for (int c = 0; c < kChains; ++c) chains[c] = _mm512_dpbf16_ps(chains[c], a, b);
    alignas(64) float lanes[16];
    for (const __m512& chain : chains) {
        _mm512_store_ps(lanes, chain);
        sink += lanes[0];
    }
    return 4.0 * kChains * 16 * static_cast<double>(rounds);  // two products and two sums a lane
}

}  // namespace tinyllm
