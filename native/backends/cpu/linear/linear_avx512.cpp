// The linear layer with AVX-512. See linear_simd.h.
//
// Products are fp32 FMAs also where the processor has vdpbf16ps: int8 weights are exact in bfloat16 too, but on
// Sapphire Rapids that instruction starts every second cycle and an FMA twice a cycle, so it does half the products of
// an FMA in the same time (measured: 53 against 106 billion per second on a core).
#include "backends/cpu/linear/linear_simd.h"
#include "backends/cpu/simd/simd_avx512.h"

namespace tinyllm::cpu {

namespace {

struct LinearVec : avx512::Vec {
    static constexpr int kTileRows = 6;  // 24 sums, 6 inputs and a weight fill 31 of 32 registers

    using Vec::set;
    static Float set(f16 x) { return _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<int16_t>(x.bits))); }

    // Lanes of (a, b) at even and at odd places.
    static void deinterleave(Float a, Float b, Float& even, Float& odd) {
        const __m512i places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        even = _mm512_permutex2var_ps(a, places, b);
        odd = _mm512_permutex2var_ps(a, _mm512_or_si512(places, _mm512_set1_epi32(1)), b);
    }

    // sums[i] += sum of the lanes of x[i], for i < 4.
    static void add_sums(float* sums, const Float (&x)[4]) {
        const __m512 ab = _mm512_unpacklo_ps(x[0], x[1]) + _mm512_unpackhi_ps(x[0], x[1]);
        const __m512 cd = _mm512_unpacklo_ps(x[2], x[3]) + _mm512_unpackhi_ps(x[2], x[3]);
        const __m512 abcd = _mm512_shuffle_ps(ab, cd, 0x44) + _mm512_shuffle_ps(ab, cd, 0xee);
        const __m256 half = _mm512_castps512_ps256(abcd) + _mm512_extractf32x8_ps(abcd, 1);
        const __m128 total = _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
        _mm_storeu_ps(sums, _mm_loadu_ps(sums) + total);
    }
};

}  // namespace

void linear_task_avx512(const LinearTask& task) { linear_simd::run_task<LinearVec>(task); }

}  // namespace tinyllm::cpu
