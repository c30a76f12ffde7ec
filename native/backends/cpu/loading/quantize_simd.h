// Quantisation of a row for any Vec of simd_avx2.h or simd_avx512.h that can also store int8. Same results as the plain
// loops in quantize.cpp: each step (division, rounding) is exact or rounds to nearest even in both.
#pragma once

#include <cstdint>
#include <cstring>

#include "backends/cpu/loading/quantize_row.h"
#include "backends/cpu/rows/row_kernels_simd.h"

namespace tinyllm::cpu::quantize_simd {

// One group of n weights; false where one is bad. `given`: the scale to quantise with, null for absmax / 127.
template <typename V, typename S>
bool quantize_group(const S* in, int64_t n, const f16* given, int8_t* q, f16* scale) {
    using Float = typename V::Float;
    Float largest = V::zero();
    Float not_finite = V::zero();  // 0 until a NaN or Inf comes, NaN from then on
    const auto look = [&](Float x) {
        largest = V::max(V::max(x, V::zero() - x), largest);
        not_finite = V::fma(x, V::zero(), not_finite);
    };
    for_vectors<V>(
        n, [&](int64_t i) { look(V::load(in + i)); },
        [&](int64_t i, int count) { look(V::load_first(in + i, count)); });
    V::store_first(scale, V::set(V::max_of(largest) / 127.0f), 1);
    constexpr uint16_t kInfinity = 0x7c00;
    if (V::sum(not_finite) != 0 || scale->bits == kInfinity) return false;
    if (given != nullptr) *scale = *given;
    if (scale->bits == 0) {
        std::memset(q, 0, static_cast<size_t>(n));
        return true;
    }
    const Float divisor = V::set(V::first_lane(V::load_first(scale, 1)));
    for_vectors<V>(
        n, [&](int64_t i) { V::store_rounded(q + i, V::load(in + i) / divisor); },
        [&](int64_t i, int count) { V::store_rounded_first(q + i, V::load_first(in + i, count) / divisor, count); });
    return true;
}

template <typename V, typename S>
bool quantize_row(const LinearWeight& weight, int64_t row, const S* in, const f16* given) {
    const int64_t k = weight.k, length = weight.group_length, groups = (k + length - 1) / length;
    int8_t* q = static_cast<int8_t*>(weight.data) + row * k;
    f16* scale = static_cast<f16*>(weight.scales) + row * groups;
    for (int64_t begin = 0; begin < k; begin += length, ++scale) {
        const int64_t n = k - begin < length ? k - begin : length;
        if (!quantize_group<V>(in + begin, n, given, q + begin, scale)) return false;
        if (given != nullptr) ++given;
    }
    return true;
}

template <typename V, typename T, typename S>
bool convert_row(const LinearWeight& weight, int64_t row, const S* in) {
    T* out = static_cast<T*>(weight.data) + row * weight.k;
    typename V::Float not_finite = V::zero();
    for_vectors<V>(
        weight.k,
        [&](int64_t i) {
            V::store(out + i, V::load(in + i));
            not_finite = V::fma(V::load(out + i), V::zero(), not_finite);
        },
        [&](int64_t i, int count) {
            V::store_first(out + i, V::load_first(in + i, count), count);
            not_finite = V::fma(V::load_first(out + i, count), V::zero(), not_finite);
        });
    return V::sum(not_finite) == 0;
}

template <typename V, typename S>
bool load_row_from(const LinearWeight& weight, int64_t row, const SourceRow& source) {
    const S* in = static_cast<const S*>(source.data);  // perhaps unaligned: only vector loads touch it
    if (weight.quantization == QuantizationType::W8A16) return quantize_row<V>(weight, row, in, source.scales);
    switch (weight.dtype) {
        case DType::F16:
            return convert_row<V, f16>(weight, row, in);
        case DType::BF16:
            return convert_row<V, bf16>(weight, row, in);
        default:
            return convert_row<V, float>(weight, row, in);
    }
}

template <typename V>
bool load_row(const LinearWeight& weight, int64_t row, const SourceRow& source) {
    switch (source.dtype) {
        case DType::F16:
            return load_row_from<V, f16>(weight, row, source);
        case DType::BF16:
            return load_row_from<V, bf16>(weight, row, source);
        default:
            return load_row_from<V, float>(weight, row, source);
    }
}

}  // namespace tinyllm::cpu::quantize_simd
