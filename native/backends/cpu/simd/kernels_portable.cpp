// The plain loops: what each kernel of kernels.h computes, and what runs where no vector version does.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backends/cpu/simd/kernels.h"
#include "ops/kv_cache.h"
#include "ops/philox.h"

namespace tinyllm::cpu {

namespace {

template <typename T>
void rms_norm(const void* x_in, const float* weight, float eps, int64_t n, void* out_in) {
    const T* x = static_cast<const T*>(x_in);
    T* out = static_cast<T*>(out_in);
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(to_float(x[i])) * to_float(x[i]);
    const float inverse = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(n) + eps));
    for (int64_t i = 0; i < n; ++i) out[i] = from_float<T>(to_float(x[i]) * inverse * weight[i]);
}

template <typename T>
void dequantize(const int8_t* q, const f16* scales, int64_t group_length, int64_t n, void* out_in) {
    T* out = static_cast<T*>(out_in);
    for (int64_t begin = 0; begin < n; begin += group_length, ++scales) {
        const float scale = to_float(*scales);
        const int64_t end = std::min(n, begin + group_length);
        for (int64_t i = begin; i < end; ++i) out[i] = from_float<T>(static_cast<float>(q[i]) * scale);
    }
}

template <typename T>
void rotate(const void* x_in, const float* cos, const float* sin, int64_t half, void* out_in) {
    const T* x = static_cast<const T*>(x_in);
    T* out = static_cast<T*>(out_in);
    for (int64_t i = 0; i < half; ++i) {
        const float a = to_float(x[i]), b = to_float(x[i + half]);
        out[i] = from_float<T>(a * cos[i] - b * sin[i]);
        out[i + half] = from_float<T>(b * cos[i] + a * sin[i]);
    }
}

template <typename T>
void widen(const void* x_in, float scale, int64_t n, float* out) {
    const T* x = static_cast<const T*>(x_in);
    for (int64_t i = 0; i < n; ++i) out[i] = to_float(x[i]) * scale;
    std::fill(out + n, out + pad_floats(n), 0.0f);
}

template <typename T>
void narrow(const float* x, float scale, int64_t n, void* out_in) {
    T* out = static_cast<T*>(out_in);
    for (int64_t i = 0; i < n; ++i) out[i] = from_float<T>(x[i] * scale);
}

template <typename T>
void transpose_keys(const void* tile_in, int64_t num_tokens, int64_t head_dim, float* out) {
    const T* tile = static_cast<const T*>(tile_in);
    for (int64_t t = 0; t < num_tokens; ++t)
        for (int64_t d = 0; d < head_dim; ++d) out[d * kPageTokens + t] = to_float(tile[t * head_dim + d]);
}

template <typename T>
constexpr RowKernels row_kernels() noexcept {
    return {rms_norm<T>, dequantize<T>, rotate<T>, widen<T>, narrow<T>, transpose_keys<T>};
}

void multiply_add(int64_t rows, int64_t cols, int64_t depth, const float* a, int64_t a_stride, const float* b,
                  int64_t b_stride, const float* alpha, float* c, int64_t c_stride) {
    for (int64_t i = 0; i < rows; ++i, a += a_stride, c += c_stride) {
        for (int64_t j = 0; j < cols; ++j) c[j] = alpha == nullptr ? 0.0f : alpha[i] * c[j];
        for (int64_t k = 0; k < depth; ++k) {
            const float factor = a[k];
            const float* row = b + k * b_stride;
            for (int64_t j = 0; j < cols; ++j) c[j] += factor * row[j];
        }
    }
}

float softmax_page(float* scores, int32_t begin, int32_t end, float* max, float* sum) {
    float new_max = *max;
    for (int32_t t = begin; t < end; ++t) new_max = std::max(new_max, scores[t]);
    const float factor = std::exp(*max - new_max);
    float page_sum = 0;
    for (int32_t t = 0; t < kPageTokens; ++t) {
        scores[t] = t >= begin && t < end ? std::exp(scores[t] - new_max) : 0.0f;
        page_sum += scores[t];
    }
    *max = new_max;
    *sum = *sum * factor + page_sum;
    return factor;
}

int64_t argmax(const float* x, int64_t n) {
    int64_t best = 0;
    float best_value = -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < n; ++i) {
        if (x[i] > best_value) {
            best_value = x[i];
            best = i;
        }
    }
    return best;
}

double sum_exp(const float* x, int64_t n, float max, float inv_temperature) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i)
        if (!std::isnan(x[i])) sum += std::exp((x[i] - max) * inv_temperature);
    return sum;
}

uint64_t gumbel_candidates(const GumbelBlock& block) {
    uint64_t candidates = 0;
    for (int64_t i = 0; i < block.size; ++i) {
        const float score = (block.scores[i] - block.max) * block.inv_temperature;
        const bool possible = block.scores[i] >= block.floor && score + kGumbelMax >= block.best;
        candidates |= static_cast<uint64_t>(possible) << i;
    }
    return candidates;
}

}  // namespace

constinit const CpuKernels kPortableKernels{row_kernels<float>(),
                                            row_kernels<f16>(),
                                            row_kernels<bf16>(),
                                            {multiply_add, softmax_page},
                                            {argmax, sum_exp, gumbel_candidates}};

}  // namespace tinyllm::cpu
