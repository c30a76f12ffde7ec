// AttentionKernels as templates over a vector type V (simd_avx2.h, simd_avx512.h).
#pragma once

#include <cstdint>

#include "backends/cpu/simd/kernels.h"
#include "backends/cpu/simd/simd_math.h"
#include "config/limits.h"

namespace tinyllm::cpu {

// The tile of c that is kept in registers: R rows of C vectors.
template <typename V, int R, int C>
void simd_multiply_add_tile(int64_t depth, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                            const float* alpha, float* c, int64_t c_stride) {
    using Float = typename V::Float;
    Float sum[R][C];
    for (int i = 0; i < R; ++i)
        for (int j = 0; j < C; ++j)
            sum[i][j] = alpha == nullptr ? V::zero() : V::set(alpha[i]) * V::load(c + i * c_stride + j * V::kWidth);
    for (int64_t k = 0; k < depth; ++k) {
        Float row[C];
        for (int j = 0; j < C; ++j) row[j] = V::load(b + k * b_stride + j * V::kWidth);
        for (int i = 0; i < R; ++i) {
            const Float factor = V::set(a[i * a_stride + k]);
            for (int j = 0; j < C; ++j) sum[i][j] = V::fma(factor, row[j], sum[i][j]);
        }
    }
    for (int i = 0; i < R; ++i)
        for (int j = 0; j < C; ++j) V::store(c + i * c_stride + j * V::kWidth, sum[i][j]);
}

// R rows, all columns. C vectors at a time, then one at a time; the order of each sum is the same in both.
template <typename V, int R, int C>
void simd_multiply_add_rows(int64_t cols, int64_t depth, const float* a, int64_t a_stride, const float* b,
                            int64_t b_stride, const float* alpha, float* c, int64_t c_stride) {
    int64_t j = 0;
    for (; j + C * V::kWidth <= cols; j += C * V::kWidth)
        simd_multiply_add_tile<V, R, C>(depth, a, a_stride, b + j, b_stride, alpha, c + j, c_stride);
    for (; j < cols; j += V::kWidth)
        simd_multiply_add_tile<V, R, 1>(depth, a, a_stride, b + j, b_stride, alpha, c + j, c_stride);
}

// C: vectors of a tile. 6 rows x C, C and one more registers must fit the register file: C = 4 of 32, C = 2 of 16.
template <typename V, int C>
void simd_multiply_add(int64_t rows, int64_t cols, int64_t depth, const float* a, int64_t a_stride, const float* b,
                       int64_t b_stride, const float* alpha, float* c, int64_t c_stride) {
    const auto run = [&](auto kernel, int64_t count) {
        kernel(cols, depth, a, a_stride, b, b_stride, alpha, c, c_stride);
        rows -= count;
        a += count * a_stride;
        c += count * c_stride;
        if (alpha != nullptr) alpha += count;
    };
    while (rows >= 6) run(simd_multiply_add_rows<V, 6, C>, 6);
    if (rows >= 4) run(simd_multiply_add_rows<V, 4, C>, 4);
    if (rows == 3) run(simd_multiply_add_rows<V, 3, C>, 3);
    if (rows == 2) run(simd_multiply_add_rows<V, 2, C>, 2);
    if (rows == 1) run(simd_multiply_add_rows<V, 1, C>, 1);
}

template <typename V>
float simd_softmax_page(float* scores, int32_t begin, int32_t end, float* max, float* sum) {
    using Float = typename V::Float;
    constexpr int kVectors = kPageTokens / V::kWidth;
    const Float lowest = V::set(-__builtin_inff());
    Float page[kVectors];
    Float new_max = V::set(*max);
    for (int i = 0; i < kVectors; ++i) {
        const int first = begin - i * V::kWidth, last = end - i * V::kWidth;
        const auto clamp = [](int lane) { return lane < 0 ? 0 : (lane > V::kWidth ? V::kWidth : lane); };
        page[i] = V::select(V::lanes(clamp(first), clamp(last)), V::load(scores + i * V::kWidth), lowest);
        new_max = V::max(page[i], new_max);
    }
    const float top = V::max_of(new_max);
    Float page_sum = V::zero();
    for (int i = 0; i < kVectors; ++i) {
        page[i] = exp<V>(page[i] - V::set(top));
        V::store(scores + i * V::kWidth, page[i]);
        page_sum = page_sum + page[i];
    }
    const float factor = V::first_lane(exp<V>(V::set(*max - top)));
    *max = top;
    *sum = *sum * factor + V::sum(page_sum);
    return factor;
}

}  // namespace tinyllm::cpu
