// The linear layer with AVX2, FMA and F16C. See linear_simd.h.
#include "backends/cpu/linear/linear_simd.h"
#include "backends/cpu/simd/simd_avx2.h"

namespace tinyllm::cpu {

namespace {

struct LinearVec : avx2::Vec {
    static constexpr int kTileRows = 3;  // 12 sums, 3 inputs and a weight fill the 16 registers

    using Vec::set;
    static Float set(f16 x) { return _mm256_cvtph_ps(_mm_set1_epi16(static_cast<int16_t>(x.bits))); }

    // Lanes of (a, b) at even and at odd places.
    static void deinterleave(Float a, Float b, Float& even, Float& odd) {
        even = in_order(_mm256_shuffle_ps(a, b, 0x88));
        odd = in_order(_mm256_shuffle_ps(a, b, 0xdd));
    }

    // sums[i] += sum of the lanes of x[i], for i < 4.
    static void add_sums(float* sums, const Float (&x)[4]) {
        const __m256 ab = _mm256_unpacklo_ps(x[0], x[1]) + _mm256_unpackhi_ps(x[0], x[1]);
        const __m256 cd = _mm256_unpacklo_ps(x[2], x[3]) + _mm256_unpackhi_ps(x[2], x[3]);
        const __m256 abcd = _mm256_shuffle_ps(ab, cd, 0x44) + _mm256_shuffle_ps(ab, cd, 0xee);
        const __m128 total = _mm256_castps256_ps128(abcd) + _mm256_extractf128_ps(abcd, 1);
        _mm_storeu_ps(sums, _mm_loadu_ps(sums) + total);
    }

private:
    // Swaps the two middle quarters: shuffles of 256 bits work on each 128 apart.
    static Float in_order(Float x) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xd8)); }
};

}  // namespace

void linear_task_avx2(const LinearTask& task) { linear_simd::run_task<LinearVec>(task); }

}  // namespace tinyllm::cpu
