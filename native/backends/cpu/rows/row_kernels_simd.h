// RowKernels as templates over a vector type V (simd_avx2.h, simd_avx512.h) and the activation type T.
#pragma once

#include <cstdint>

#include "backends/cpu/simd/kernels.h"
#include "config/limits.h"

namespace tinyllm::cpu {

// Calls body(i) for each whole vector of [0, n), then tail(i, count) for the rest where there is one.
template <typename V, typename Body, typename Tail>
void for_vectors(int64_t n, const Body& body, const Tail& tail) {
    int64_t i = 0;
    for (; i + V::kWidth <= n; i += V::kWidth) body(i);
    if (i < n) tail(i, static_cast<int>(n - i));
}

template <typename V, typename T>
void simd_rms_norm(const void* x_in, const float* weight, float eps, int64_t n, void* out_in) {
    using Float = typename V::Float;
    const T* x = static_cast<const T*>(x_in);
    T* out = static_cast<T*>(out_in);
    Float squares = V::zero();
    for_vectors<V>(
        n,
        [&](int64_t i) {
            const Float v = V::load(x + i);
            squares = V::fma(v, v, squares);
        },
        [&](int64_t i, int count) {
            const Float v = V::load_first(x + i, count);
            squares = V::fma(v, v, squares);
        });
    const Float inverse = V::set(1.0f / __builtin_sqrtf(V::sum(squares) / static_cast<float>(n) + eps));
    for_vectors<V>(
        n, [&](int64_t i) { V::store(out + i, V::load(x + i) * inverse * V::load(weight + i)); },
        [&](int64_t i, int count) {
            V::store_first(out + i, V::load_first(x + i, count) * inverse * V::load_first(weight + i, count), count);
        });
}

template <typename V, typename T>
void simd_dequantize(const int8_t* q, const f16* scales, int64_t group_length, int64_t n, void* out_in) {
    T* out = static_cast<T*>(out_in);
    for (int64_t begin = 0; begin < n; begin += group_length, ++scales) {
        const auto scale = V::set(V::first_lane(V::load_first(scales, 1)));
        const int64_t length = n - begin < group_length ? n - begin : group_length;
        for_vectors<V>(
            length, [&](int64_t i) { V::store(out + begin + i, V::load(q + begin + i) * scale); },
            [&](int64_t i, int count) {
                V::store_first(out + begin + i, V::load_first(q + begin + i, count) * scale, count);
            });
    }
}

template <typename V, typename T>
void simd_rotate(const void* x_in, const float* cos, const float* sin, int64_t half, void* out_in) {
    using Float = typename V::Float;
    const T* x = static_cast<const T*>(x_in);
    T* out = static_cast<T*>(out_in);
    for_vectors<V>(
        half,
        [&](int64_t i) {
            const Float a = V::load(x + i), b = V::load(x + i + half), c = V::load(cos + i), s = V::load(sin + i);
            V::store(out + i, a * c - b * s);
            V::store(out + i + half, b * c + a * s);
        },
        [&](int64_t i, int count) {
            const Float a = V::load_first(x + i, count), b = V::load_first(x + i + half, count);
            const Float c = V::load_first(cos + i, count), s = V::load_first(sin + i, count);
            V::store_first(out + i, a * c - b * s, count);
            V::store_first(out + i + half, b * c + a * s, count);
        });
}

template <typename V, typename T>
void simd_widen(const void* x_in, float scale_in, int64_t n, float* out) {
    const T* x = static_cast<const T*>(x_in);
    const auto scale = V::set(scale_in);
    const int64_t padded = pad_floats(n);
    int64_t i = 0;
    for (; i + V::kWidth <= n; i += V::kWidth) V::store(out + i, V::load(x + i) * scale);
    if (i < n) {
        V::store(out + i, V::load_first(x + i, static_cast<int>(n - i)) * scale);
        i += V::kWidth;
    }
    for (; i < padded; i += V::kWidth) V::store(out + i, V::zero());
}

template <typename V, typename T>
void simd_narrow(const float* x, float scale_in, int64_t n, void* out_in) {
    T* out = static_cast<T*>(out_in);
    const auto scale = V::set(scale_in);
    for_vectors<V>(
        n, [&](int64_t i) { V::store(out + i, V::load(x + i) * scale); },
        [&](int64_t i, int count) { V::store_first(out + i, V::load_first(x + i, count) * scale, count); });
}

// Squares of kWidth tokens and kWidth dimensions are turned in registers.
template <typename V, typename T>
void simd_transpose_keys(const void* tile_in, int64_t num_tokens, int64_t head_dim, float* out) {
    const T* tile = static_cast<const T*>(tile_in);
    for (int64_t t = 0; t < num_tokens; t += V::kWidth) {
        for (int64_t d = 0; d < head_dim; d += V::kWidth) {
            const int dims = static_cast<int>(head_dim - d);  // that are left
            typename V::Float square[V::kWidth];
            for (int i = 0; i < V::kWidth; ++i) {
                const T* row = tile + (t + i) * head_dim + d;
                square[i] = dims >= V::kWidth ? V::load(row) : V::load_first(row, dims);
            }
            V::transpose(square);
            for (int i = 0; i < V::kWidth && i < dims; ++i) V::store(out + (d + i) * kPageTokens + t, square[i]);
        }
    }
}

template <typename V, typename T>
constexpr RowKernels simd_row_kernels() {
    return {simd_rms_norm<V, T>, simd_dequantize<V, T>, simd_rotate<V, T>,
            simd_widen<V, T>,    simd_narrow<V, T>,     simd_transpose_keys<V, T>};
}

}  // namespace tinyllm::cpu
