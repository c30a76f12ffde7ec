// One task of the linear layer, for any Vec of simd_avx2.h or simd_avx512.h with the members that linear_avx2.cpp and
// linear_avx512.cpp add: from x in T to the finished outputs. The sums are computed in linear_tile_simd.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "backends/cpu/linear/linear_task.h"
#include "backends/cpu/linear/linear_tile_simd.h"
#include "backends/cpu/simd/simd_math.h"

namespace tinyllm::cpu::linear_simd {

// out[0, len) = in[0, len) as floats, then zeros up to a multiple of kWidth.
template <typename V, typename T>
void widen(const T* in, int64_t len, float* out) {
    int64_t k = 0;
    for (; k + V::kWidth <= len; k += V::kWidth) V::store(out + k, V::load(in + k));
    if (k < len) V::store(out + k, V::load_first(in + k, static_cast<int>(len - k)));
}

// silu(g) * u with silu(g) = g / (1 + e^-g).
template <typename V>
typename V::Float silu_mul(typename V::Float g, typename V::Float u) {
    const typename V::Float largest = V::set(88.0f);  // of exp(); the quotient is 0 to any 16-bit type from there on
    const typename V::Float minus_g = V::zero() - g;
    const typename V::Float e = exp<V>(V::select(V::less(largest, minus_g), largest, minus_g));
    return g / (V::set(1.0f) + e) * u;
}

// Elements [0, count) of a row of the output, from sums[0, count) (twice as many for SiluMul). Sums beyond are read.
template <typename V, typename T>
void finish_row(LinearOutput::Kind kind, const float* sums, int64_t count, T* out) {
    for (int64_t i = 0; i < count; i += V::kWidth) {
        const int left = count - i < V::kWidth ? static_cast<int>(count - i) : V::kWidth;
        const bool whole = left == V::kWidth;
        typename V::Float y;
        if (kind == LinearOutput::Kind::SiluMul) {
            typename V::Float gate, up;
            V::deinterleave(V::load(sums + 2 * i), V::load(sums + 2 * i + V::kWidth), gate, up);
            y = silu_mul<V>(gate, up);
        } else {
            y = V::load(sums + i);
            if (kind == LinearOutput::Kind::AddTo) y = y + (whole ? V::load(out + i) : V::load_first(out + i, left));
        }
        if (whole)
            V::store(out + i, y);
        else
            V::store_first(out + i, y, left);
    }
}

// Runs a task with activations T and weights W (int8_t, or T where not quantised).
template <typename V, typename T, typename W>
class TaskRunner {
public:
    explicit TaskRunner(const LinearTask& task) : task_(task), weight_(*task.weight), k_(weight_.k) {}

    void run() {
        float* sums = task_.scratch;                       // [rows, kPanelOutputs]
        float* buffer = sums + kTaskRows * kPanelOutputs;  // see add_direct and add_panel
        const bool direct = task_.rows <= kDirectRows;
        if (direct)
            for (int64_t m = 0; m < task_.rows; ++m) widen<V>(x() + m * k_, k_, buffer + m * padded_inputs(k_));
        for (int64_t n = task_.n_begin; n < task_.n_end; n += kPanelOutputs) {
            const int64_t left = task_.n_end - n;
            const int64_t count = left < kPanelOutputs ? left : kPanelOutputs;
            start_sums(n, count, sums);
            if (direct)
                add_direct(n, count, buffer, sums);
            else
                add_panel(n, count, buffer, sums);
            finish(n, count, sums);
        }
    }

private:
    const T* x() const { return static_cast<const T*>(task_.x); }

    // The four outputs from n on, from input k on. Outputs that do not exist (beyond `last`) repeat the last.
    auto rows_at(int64_t n, int64_t last, int64_t k) const {
        const W* data = static_cast<const W*>(weight_.data);
        const auto row = [&](int i) { return n + i < last ? n + i : last; };
        if constexpr (sizeof(W) == 1) {
            const int64_t groups = (k_ + weight_.group_length - 1) / weight_.group_length;
            const f16* scales = static_cast<const f16*>(weight_.scales);
            Int8Rows<V> rows{{}, {}, k, weight_.group_length};
            for (int i = 0; i < kTileOutputs; ++i) {
                rows.row[i] = data + row(i) * k_ + k;
                rows.scales[i] = scales + row(i) * groups;
            }
            return rows;
        } else {
            PlainRows<V, W, true> rows;
            for (int i = 0; i < kTileOutputs; ++i) rows.row[i] = data + row(i) * k_ + k;
            return rows;
        }
    }

    void start_sums(int64_t n, int64_t count, float* sums) const {
        const size_t bytes = static_cast<size_t>(count) * sizeof(float);
        for (int64_t m = 0; m < task_.rows; ++m) {
            std::memset(sums + m * kPanelOutputs, 0, kPanelOutputs * sizeof(float));
            if (weight_.bias != nullptr) std::memcpy(sums + m * kPanelOutputs, weight_.bias + n, bytes);
        }
    }

    // x_floats: [rows, padded_inputs(k)]
    void add_direct(int64_t n, int64_t count, const float* x_floats, float* sums) const {
        for (int64_t i = 0; i < count; i += kTileOutputs)
            for (int64_t k = 0; k < k_; k += kPanelInputs)
                tile_rows<V>(rows_at(n + i, n + count - 1, k), x_floats + k, padded_inputs(k_), task_.rows,
                             block_length(k), sums + i);
    }

    // panel: [kPanelOutputs, kPanelStride], then [kMaxTileRows, kPanelStride] for rows of x
    void add_panel(int64_t n, int64_t count, float* panel, float* sums) const {
        float* x_floats = panel + kPanelOutputs * kPanelStride;
        for (int64_t k = 0; k < k_; k += kPanelInputs) {
            const int64_t len = block_length(k), vectors = (len + V::kWidth - 1) / V::kWidth;
            for (int64_t i = 0; i < count; i += kTileOutputs)
                dequantise(rows_at(n + i, n + count - 1, k), len, panel + i * kPanelStride);
            for (int64_t m = 0; m < task_.rows; m += V::kTileRows) {
                const int64_t left = task_.rows - m;
                const int64_t tile_rows_now = left < V::kTileRows ? left : V::kTileRows;
                for (int64_t j = 0; j < tile_rows_now; ++j)
                    widen<V>(x() + (m + j) * k_ + k, len, x_floats + j * kPanelStride);
                for (int64_t i = 0; i < count; i += kTileOutputs) {
                    PlainRows<V, float, false> rows;
                    for (int j = 0; j < kTileOutputs; ++j) rows.row[j] = panel + (i + j) * kPanelStride;
                    tile_rows<V>(rows, x_floats, kPanelStride, tile_rows_now, vectors * V::kWidth,
                                 sums + m * kPanelOutputs + i);
                }
            }
        }
    }

    // Four rows of the panel, zero from len to the next multiple of kWidth.
    template <typename Rows>
    static void dequantise(const Rows& weights, int64_t len, float* panel) {
        for_each_vector<V>(weights, len, [&](int64_t k, const auto& load) __attribute__((always_inline)) {
#pragma GCC unroll 4
            for (int i = 0; i < kTileOutputs; ++i) V::store(panel + i * kPanelStride + k, load(i));
        });
    }

    void finish(int64_t n, int64_t count, const float* sums) const {
        const LinearOutput& out = task_.out;
        const bool halves = out.kind == LinearOutput::Kind::SiluMul;
        const int64_t first = halves ? n / 2 : n;
        for (int64_t m = 0; m < task_.rows; ++m) {
            const float* row = sums + m * kPanelOutputs;
            const int64_t at = m * out.row_stride + first;
            if (out.kind == LinearOutput::Kind::StoreFloat)
                finish_row<V>(LinearOutput::Kind::Store, row, count, static_cast<float*>(out.data) + at);
            else
                finish_row<V>(out.kind, row, halves ? count / 2 : count, static_cast<T*>(out.data) + at);
        }
    }

    int64_t block_length(int64_t k) const { return k_ - k < kPanelInputs ? k_ - k : kPanelInputs; }

    const LinearTask& task_;
    const LinearWeight& weight_;
    const int64_t k_;
};

template <typename V, typename T>
void run_task_as(const LinearTask& task) {
    if (task.weight->quantization == QuantizationType::W8A16)
        TaskRunner<V, T, int8_t>(task).run();
    else
        TaskRunner<V, T, T>(task).run();
}

template <typename V>
void run_task(const LinearTask& task) {
    switch (task.activation) {
        case DType::F16:
            return run_task_as<V, f16>(task);
        case DType::BF16:
            return run_task_as<V, bf16>(task);
        default:
            return run_task_as<V, float>(task);
    }
}

}  // namespace tinyllm::cpu::linear_simd
