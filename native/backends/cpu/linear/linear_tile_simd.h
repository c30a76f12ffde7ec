// The inner loop of the linear layer: four outputs of up to kTileRows rows, for any Vec of simd_avx2.h or simd_avx512.h
// with the members that linear_avx2.cpp and linear_avx512.cpp add.
//
// An output is the sum over k of x[k] * w[k]. Its lanes hold the sums of every kWidth-th product and are added up after
// each kPanelInputs inputs, always in the same order. One tile computes up to kTileRows rows times 4 outputs, so that
// each vector that is loaded serves several products and enough sums are under way to hide the latency of an FMA. The
// tile is the same code whether its weights come straight from the layer or from a panel, which is why the number of
// rows does not change a bit.
#pragma once

#include <cstdint>

#include "backends/cpu/linear/linear_task.h"

namespace tinyllm::cpu::linear_simd {

// How far ahead of its loads a stream of weights is prefetched into L2. Measured on a core of a Sapphire Rapids server,
// reading from memory: 5.9 GB/s without, 10.6 with 2 KiB, 12.3 with 8 and 16 KiB, 11.1 with 32 KiB.
constexpr int64_t kPrefetchBytes = 8192;

// Four rows of 16-bit or float weights (or of a panel), from input k_begin on.
template <typename V, typename W, bool kPrefetch>
struct PlainRows {
    using Float = typename V::Float;
    struct Scale {};
    static constexpr int64_t kLine = 64 / sizeof(W);  // elements of a cache line

    const W* row[kTileOutputs];

    int64_t first_group() const { return 0; }
    int64_t group_end(int64_t, int64_t len) const { return len; }
    Scale scale(int, int64_t) const { return {}; }
    Float load(int i, int64_t k, Scale) const { return V::load(row[i] + k); }
    Float load_first(int i, int64_t k, int count, Scale) const { return V::load_first(row[i] + k, count); }
    void prefetch(int64_t k) const {
        if (!kPrefetch || k % kLine != 0) return;
        for (const W* p : row) __builtin_prefetch(reinterpret_cast<const char*>(p + k) + kPrefetchBytes, 0, 2);
    }
};

// Four rows of int8 weights. Dequantising them is exact: 8 bits times f16's 11 bits fit into a float's 24.
template <typename V>
struct Int8Rows {
    using Float = typename V::Float;
    using Scale = typename V::Float;

    const int8_t* row[kTileOutputs];  // at k_begin
    const f16* scales[kTileOutputs];  // at group 0
    int64_t k_begin;
    int64_t group_length;

    int64_t first_group() const { return k_begin / group_length; }
    int64_t group_end(int64_t group, int64_t len) const {
        const int64_t end = (group + 1) * group_length - k_begin;
        return end < len ? end : len;
    }
    Scale scale(int i, int64_t group) const { return V::set(scales[i][group]); }
    Float load(int i, int64_t k, Scale scale) const { return V::load(row[i] + k) * scale; }
    Float load_first(int i, int64_t k, int count, Scale scale) const {
        return V::load_first(row[i] + k, count) * scale;
    }
    void prefetch(int64_t k) const {
        if (k % 64 != 0) return;
        for (const int8_t* p : row) __builtin_prefetch(reinterpret_cast<const char*>(p + k) + kPrefetchBytes, 0, 2);
    }
};

// Calls visit(k, load) for every vector of inputs k..k + kWidth - 1 up to len; load(i) is row i's weights there, zero
// from len on.
template <typename V, typename Rows, typename Visit>
[[gnu::always_inline]] inline void for_each_vector(const Rows& weights, int64_t len, const Visit& visit) {
    int64_t k = 0;
    for (int64_t group = weights.first_group(); k < len; ++group) {
        const int64_t end = weights.group_end(group, len);
        typename Rows::Scale scale[kTileOutputs];
#pragma GCC unroll 4
        for (int i = 0; i < kTileOutputs; ++i) scale[i] = weights.scale(i, group);
        for (; k + V::kWidth <= end; k += V::kWidth) {
            weights.prefetch(k);
            visit(k, [&](int i) __attribute__((always_inline)) { return weights.load(i, k, scale[i]); });
        }
        if (k < end) {  // only at the end of a row: groups are multiples of kWidth
            const int count = static_cast<int>(end - k);
            visit(k, [&](int i) __attribute__((always_inline)) { return weights.load_first(i, k, count, scale[i]); });
            k = end;
        }
    }
}

// sums[m][i] += sum over k < len of x[m][k] * weights[i][k], for m < M and i < 4.
//   x: [M] rows of x_stride floats, zero from len to the next multiple of kWidth; sums: [M] rows of kPanelOutputs
//   floats
template <typename V, int M, typename Rows>
void tile(const Rows& weights, const float* x, int64_t x_stride, int64_t len, float* sums) {
    typename V::Float acc[M][kTileOutputs];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int i = 0; i < kTileOutputs; ++i) acc[m][i] = V::zero();
    for_each_vector<V>(weights, len, [&](int64_t k, const auto& load) __attribute__((always_inline)) {
        typename V::Float xs[M];
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) xs[m] = V::load(x + m * x_stride + k);
#pragma GCC unroll 4
        for (int i = 0; i < kTileOutputs; ++i) {
            const typename V::Float w = load(i);
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) acc[m][i] = V::fma(xs[m], w, acc[m][i]);
        }
    });
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) V::add_sums(sums + m * kPanelOutputs, acc[m]);
}

// The same for any number of rows.
template <typename V, typename Rows>
void tile_rows(const Rows& weights, const float* x, int64_t x_stride, int64_t rows, int64_t len, float* sums) {
    for (; rows >= V::kTileRows; rows -= V::kTileRows) {
        tile<V, V::kTileRows>(weights, x, x_stride, len, sums);
        x += V::kTileRows * x_stride;
        sums += V::kTileRows * kPanelOutputs;
    }
    static_assert(V::kTileRows <= kMaxTileRows && kMaxTileRows == 6);
    switch (rows) {
        case 1:
            return tile<V, 1>(weights, x, x_stride, len, sums);
        case 2:
            return tile<V, 2>(weights, x, x_stride, len, sums);
        case 3:
            return tile<V, 3>(weights, x, x_stride, len, sums);
        case 4:
            return tile<V, 4>(weights, x, x_stride, len, sums);
        case 5:
            return tile<V, 5>(weights, x, x_stride, len, sums);
        default:
            return;  // none are left
    }
}

}  // namespace tinyllm::cpu::linear_simd
