// Quantisation with AVX2. See quantize_simd.h.
#include "backends/cpu/loading/quantize_simd.h"
#include "backends/cpu/simd/simd_avx2.h"

namespace tinyllm::cpu {

namespace {

struct QuantizeVec : avx2::Vec {
    // Stores x rounded to nearest even and limited to [-127, 127].
    static void store_rounded(int8_t* p, Float x) { store_rounded_first(p, x, kWidth); }
    static void store_rounded_first(int8_t* p, Float x, int n) {
        const __m256i words = _mm256_cvtps_epi32(x);
        const __m128i shorts = _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        const __m128i bytes = _mm_packs_epi16(shorts, shorts);  // saturates at -128
        const __m128i limited = _mm_max_epi8(bytes, _mm_set1_epi8(-127));
        std::memcpy(p, &limited, static_cast<size_t>(n));
    }
};

}  // namespace

bool quantize_row_avx2(const LinearWeight& weight, int64_t row, const SourceRow& source) {
    return quantize_simd::load_row<QuantizeVec>(weight, row, source);
}

}  // namespace tinyllm::cpu
