// Vectors of 16 floats (AVX-512). Same members as avx2::Vec in simd_avx2.h, so that a kernel is written once, as a
// template over Vec. To be included by files compiled for AVX-512 only; everything here is in a namespace of its own,
// so that no code with AVX-512 instructions can take the place of a function that other files share.
#pragma once

// GCC 12 takes the undefined inputs of some intrinsics for mistakes (its bug 105593).
#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>

#include "core/dtype.h"

namespace tinyllm::cpu::avx512 {

struct Vec {
    static constexpr int kWidth = 16;
    using Float = __m512;  // + - * / work on it
    using Int = __m512i;   // 16 unsigned words
    using Mask = __mmask16;

    static Float set(float x) { return _mm512_set1_ps(x); }
    static Float zero() { return _mm512_setzero_ps(); }

    static Float load(const float* p) { return _mm512_loadu_ps(p); }
    static Float load(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
    static Float load(const bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
    static Float load(const int8_t* p) { return widen8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }

    static void store(float* p, Float x) { _mm512_storeu_ps(p, x); }
    static void store(f16* p, Float x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_f16(x)); }
    static void store(bf16* p, Float x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(x)); }

    // The first n < kWidth elements; the others load as 0 and are not stored.
    static Float load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
    static Float load_first(const f16* p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p)); }
    static Float load_first(const bf16* p, int n) { return widen(_mm256_maskz_loadu_epi16(first(n), p)); }
    static Float load_first(const int8_t* p, int n) { return widen8(_mm_maskz_loadu_epi8(first(n), p)); }
    static void store_first(float* p, Float x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
    static void store_first(f16* p, Float x, int n) { _mm256_mask_storeu_epi16(p, first(n), to_f16(x)); }
    static void store_first(bf16* p, Float x, int n) { _mm256_mask_storeu_epi16(p, first(n), to_bf16(x)); }

    static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    // b where a is NaN.
    static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
    static Float round(Float x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    // x * 2^n for whole n.
    static Float scale_by_power_of_2(Float x, Float n) { return _mm512_scalef_ps(x, n); }

    // Lanes [begin, end).
    static Mask lanes(int begin, int end) { return static_cast<Mask>(first(end) & ~first(begin)); }
    // False for NaN.
    static Mask less(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
    static Mask less_equal(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
    static uint32_t bits(Mask mask) { return mask; }
    static Float select(Mask mask, Float a, Float b) { return _mm512_mask_blend_ps(mask, b, a); }

    static float sum(Float x) { return _mm512_reduce_add_ps(x); }
    static float max_of(Float x) { return _mm512_reduce_max_ps(x); }
    static float first_lane(Float x) { return _mm512_cvtss_f32(x); }

    static Int set_int(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
    static Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }
    static Int exclusive_or(Int a, Int b) { return _mm512_xor_si512(a, b); }
    static Int shift_right(Int x, int n) { return _mm512_srli_epi32(x, n); }
    static Float to_float(Int x) { return _mm512_cvtepi32_ps(x); }
    // The two halves of the 64-bit product of each unsigned lane with k.
    static void multiply_wide(Int x, uint32_t k, Int& high, Int& low) {
        const Int factor = set_int(k);
        const Int even = _mm512_mul_epu32(x, factor);
        const Int odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), factor);
        high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
        low = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
    }
    // Lane 4 q + j holds 4 j + q: after transpose_quads, vector j holds what came from counters 4 j to 4 j + 3.
    static Int interleaved_lanes() { return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15); }
    // In each quarter of 4 lanes: lane i of vector j becomes lane j of vector i.
    static void transpose_quads(Int (&r)[4]) {
        const Int a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpackhi_epi32(r[0], r[1]);
        const Int c = _mm512_unpacklo_epi32(r[2], r[3]), d = _mm512_unpackhi_epi32(r[2], r[3]);
        r[0] = _mm512_unpacklo_epi64(a, c);
        r[1] = _mm512_unpackhi_epi64(a, c);
        r[2] = _mm512_unpacklo_epi64(b, d);
        r[3] = _mm512_unpackhi_epi64(b, d);
    }

    // Rows of a square become its columns.
    static void transpose(Float (&r)[16]) {
        Float t[16];
        for (int i = 0; i < 16; i += 2) {
            t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
            t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
        }
        for (int i = 0; i < 16; i += 4) {  // r[i + j]: lane 4 q + m holds row i + m, column 4 q + j
            r[i] = pairs_low(t[i], t[i + 2]);
            r[i + 1] = pairs_high(t[i], t[i + 2]);
            r[i + 2] = pairs_low(t[i + 1], t[i + 3]);
            r[i + 3] = pairs_high(t[i + 1], t[i + 3]);
        }
        for (int j = 0; j < 4; ++j) {
            t[j] = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x88);      // quarters 0 and 2 of both
            t[4 + j] = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xdd);  // 1 and 3
            t[8 + j] = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x88);
            t[12 + j] = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xdd);
        }
        for (int j = 0; j < 4; ++j) {
            r[j] = _mm512_shuffle_f32x4(t[j], t[8 + j], 0x88);
            r[8 + j] = _mm512_shuffle_f32x4(t[j], t[8 + j], 0xdd);
            r[4 + j] = _mm512_shuffle_f32x4(t[4 + j], t[12 + j], 0x88);
            r[12 + j] = _mm512_shuffle_f32x4(t[4 + j], t[12 + j], 0xdd);
        }
    }

private:
    static uint32_t first(int n) { return (1u << n) - 1; }
    static Float pairs_low(Float a, Float b) {
        return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
    }
    static Float pairs_high(Float a, Float b) {
        return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
    }
    static Float widen(__m256i bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)); }
    static Float widen8(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)); }
    static __m256i to_f16(Float x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    // Round to nearest even as from_float<bf16>; a NaN keeps its upper half and becomes quiet.
    static __m256i to_bf16(Float x) {
        const __m512i u = _mm512_castps_si512(x);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
        const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
        const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
        const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, quiet), 16));
    }
};

}  // namespace tinyllm::cpu::avx512
