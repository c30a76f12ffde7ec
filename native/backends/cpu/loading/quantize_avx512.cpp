// Quantisation with AVX-512. See quantize_simd.h.
#include "backends/cpu/loading/quantize_simd.h"
#include "backends/cpu/simd/simd_avx512.h"

namespace tinyllm::cpu {

namespace {

struct QuantizeVec : avx512::Vec {
    // Stores x rounded to nearest even and limited to [-127, 127].
    static void store_rounded(int8_t* p, Float x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), round_to_int8(x)); }
    static void store_rounded_first(int8_t* p, Float x, int n) {
        _mm_mask_storeu_epi8(p, static_cast<__mmask16>((1u << n) - 1), round_to_int8(x));
    }

private:
    static __m128i round_to_int8(Float x) {
        const __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x));  // saturates at -128
        return _mm_max_epi8(bytes, _mm_set1_epi8(-127));
    }
};

}  // namespace

bool quantize_row_avx512(const LinearWeight& weight, int64_t row, const SourceRow& source) {
    return quantize_simd::load_row<QuantizeVec>(weight, row, source);
}

}  // namespace tinyllm::cpu
