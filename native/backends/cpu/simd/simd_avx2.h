// Vectors of 8 floats (AVX2, FMA, F16C). Same members as avx512::Vec in simd_avx512.h, so that a kernel is written
// once, as a template over Vec. To be included by files compiled for AVX2 only; everything here is in a namespace of
// its own, so that no code with AVX2 instructions can take the place of a function that other files share.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace tinyllm::cpu::avx2 {

struct Vec {
    static constexpr int kWidth = 8;
    using Float = __m256;  // + - * / work on it
    using Int = __m256i;   // 8 unsigned words
    using Mask = __m256;   // all bits of a lane, or none

    static Float set(float x) { return _mm256_set1_ps(x); }
    static Float zero() { return _mm256_setzero_ps(); }

    static Float load(const float* p) { return _mm256_loadu_ps(p); }
    static Float load(const f16* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
    static Float load(const bf16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
    static Float load(const int8_t* p) { return widen8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }

    static void store(float* p, Float x) { _mm256_storeu_ps(p, x); }
    static void store(f16* p, Float x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_f16(x)); }
    static void store(bf16* p, Float x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bf16(x)); }

    // The first n < kWidth elements; the others load as 0 and are not stored.
    static Float load_first(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
    static Float load_first(const f16* p, int n) { return _mm256_cvtph_ps(load_bytes(p, 2 * n)); }
    static Float load_first(const bf16* p, int n) { return widen(load_bytes(p, 2 * n)); }
    static Float load_first(const int8_t* p, int n) { return widen8(load_bytes(p, n)); }
    static void store_first(float* p, Float x, int n) { _mm256_maskstore_ps(p, first(n), x); }
    static void store_first(f16* p, Float x, int n) { store_bytes(p, to_f16(x), 2 * n); }
    static void store_first(bf16* p, Float x, int n) { store_bytes(p, to_bf16(x), 2 * n); }

    static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    // b where a is NaN.
    static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
    static Float round(Float x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    // x * 2^n for whole n from -252 to 252. In two steps, since 2^n itself may be out of range where the result is not.
    static Float scale_by_power_of_2(Float x, Float n) {
        const __m256i whole = _mm256_cvtps_epi32(n);
        const __m256i half = _mm256_srai_epi32(whole, 1);
        return x * power_of_2(half) * power_of_2(_mm256_sub_epi32(whole, half));
    }

    // Lanes [begin, end).
    static Mask lanes(int begin, int end) { return _mm256_castsi256_ps(_mm256_andnot_si256(first(begin), first(end))); }
    // False for NaN.
    static Mask less(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
    static Mask less_equal(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
    static uint32_t bits(Mask mask) { return static_cast<uint32_t>(_mm256_movemask_ps(mask)); }
    static Float select(Mask mask, Float a, Float b) { return _mm256_blendv_ps(b, a, mask); }

    static float sum(Float x) {
        __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        half = _mm_add_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
    }
    static float max_of(Float x) {
        __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        half = _mm_max_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
    }

    static float first_lane(Float x) { return _mm256_cvtss_f32(x); }

    static Int set_int(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
    static Int add(Int a, Int b) { return _mm256_add_epi32(a, b); }
    static Int exclusive_or(Int a, Int b) { return _mm256_xor_si256(a, b); }
    static Int shift_right(Int x, int n) { return _mm256_srli_epi32(x, n); }
    static Float to_float(Int x) { return _mm256_cvtepi32_ps(x); }
    // The two halves of the 64-bit product of each unsigned lane with k.
    static void multiply_wide(Int x, uint32_t k, Int& high, Int& low) {
        const Int factor = set_int(k);
        const Int even = _mm256_mul_epu32(x, factor);
        const Int odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), factor);
        high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
        low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    }
    // Lane 4 q + j holds 2 j + q: after transpose_quads, vector j holds what came from counters 2 j and 2 j + 1.
    static Int interleaved_lanes() { return _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7); }
    // In each half of 4 lanes: lane i of vector j becomes lane j of vector i.
    static void transpose_quads(Int (&r)[4]) {
        const Int a = _mm256_unpacklo_epi32(r[0], r[1]), b = _mm256_unpackhi_epi32(r[0], r[1]);
        const Int c = _mm256_unpacklo_epi32(r[2], r[3]), d = _mm256_unpackhi_epi32(r[2], r[3]);
        r[0] = _mm256_unpacklo_epi64(a, c);
        r[1] = _mm256_unpackhi_epi64(a, c);
        r[2] = _mm256_unpacklo_epi64(b, d);
        r[3] = _mm256_unpackhi_epi64(b, d);
    }

    // Rows of a square become its columns.
    static void transpose(Float (&r)[8]) {
        Float t[8];
        for (int i = 0; i < 8; i += 2) {
            t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
            t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
        }
        for (int i = 0; i < 8; i += 4) {  // r[i + j]: lane 4 q + m holds row i + m, column 4 q + j
            r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
            r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
            r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
            r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
        }
        for (int j = 0; j < 4; ++j) {
            t[j] = _mm256_permute2f128_ps(r[j], r[4 + j], 0x20);
            t[4 + j] = _mm256_permute2f128_ps(r[j], r[4 + j], 0x31);
        }
        for (int j = 0; j < 8; ++j) r[j] = t[j];
    }

private:
    static __m256i first(int n) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
    static __m256 power_of_2(__m256i n) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
    }
    static __m128i load_bytes(const void* p, int n) {
        __m128i bits = _mm_setzero_si128();
        std::memcpy(&bits, p, static_cast<size_t>(n));
        return bits;
    }
    static void store_bytes(void* p, __m128i bits, int n) { std::memcpy(p, &bits, static_cast<size_t>(n)); }
    static Float widen(__m128i bits) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)); }
    static Float widen8(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)); }
    static __m128i to_f16(Float x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    // Round to nearest even as from_float<bf16>; a NaN keeps its upper half and becomes quiet.
    static __m128i to_bf16(Float x) {
        const __m256i u = _mm256_castps_si256(x);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
        const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
        const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
        const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan));
        const __m256i high = _mm256_srli_epi32(chosen, 16);
        return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
    }
};

}  // namespace tinyllm::cpu::avx2
