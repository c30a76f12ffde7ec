// Inner loops of the CPU backend that exist for each instruction set (matrix kernels apart: linear.h).
//
// A backend chooses its table of functions once. The plain loops (kernels_portable.cpp) are the reference; the vector
// versions are templates over a vector type (*_simd.h), compiled once per instruction set (kernels_avx2.cpp,
// kernels_avx512.cpp). Ops call these on one thread; how the work is split over threads is up to the op's file. Each
// function gives the same bits for the same input, whatever else is computed at the same time.
#pragma once

#include <cstdint>

#include "backends/cpu/simd/isa.h"
#include "core/dtype.h"

namespace tinyllm::cpu {

// Rows of float scratch are padded to a multiple of this many elements, one AVX-512 register.
constexpr int64_t kFloatPad = 16;
constexpr int64_t pad_floats(int64_t n) { return (n + kFloatPad - 1) / kFloatPad * kFloatPad; }

// Rows of this many elements that make a share of a loop worth a thread: about 2 us of work.
constexpr int64_t rows_per_share(int64_t row_elements) {
    constexpr int64_t kShareElements = 8192;
    return row_elements >= kShareElements ? 1 : (kShareElements + row_elements - 1) / row_elements;
}

// Loops over elements of the activation type T; `void*` points to T.
struct RowKernels {
    // out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i] for i < n. out may be x. One rounding to T.
    void (*rms_norm)(const void* x, const float* weight, float eps, int64_t n, void* out);
    // out[i] = q[i] * scales[i / group_length] for i < n, rounded to T once.
    void (*dequantize)(const int8_t* q, const f16* scales, int64_t group_length, int64_t n, void* out);
    // RoPE of one head: (out[i], out[i + half]) = (x[i] cos[i] - x[i + half] sin[i], x[i + half] cos[i] + x[i] sin[i])
    // for i < half. out may be x.
    void (*rotate)(const void* x, const float* cos, const float* sin, int64_t half, void* out);
    // out[i] = x[i] * scale for i < n; then zeros up to pad_floats(n).
    void (*widen)(const void* x, float scale, int64_t n, float* out);
    // out[i] = x[i] * scale for i < n, rounded to T.
    void (*narrow)(const float* x, float scale, int64_t n, void* out);
    // Keys of one KV tile, T [kPageTokens, head_dim], as out[d, t], float [head_dim, kPageTokens], for t < num_tokens.
    // Other elements of out may be written; tokens up to kPageTokens may be read.
    void (*transpose_keys)(const void* tile, int64_t num_tokens, int64_t head_dim, float* out);
};

// Loops over float scratch of attention. Strides count elements.
struct AttentionKernels {
    // c[i, j] = (alpha ? alpha[i] * c[i, j] : 0) + sum over k < depth of a[i, k] * b[k, j], the sum in order of k, for
    // i < rows and j < cols, where cols is a multiple of kFloatPad. c is not read where alpha is null.
    void (*multiply_add)(int64_t rows, int64_t cols, int64_t depth, const float* a, int64_t a_stride, const float* b,
                         int64_t b_stride, const float* alpha, float* c, int64_t c_stride);
    // One page of one query in a running softmax. scores: [kPageTokens], of which [begin, end) are visible. Raises
    // *max to the largest visible score, turns scores into exp(score - *max) (0 where not visible), multiplies *sum by
    // the returned factor exp(old *max - *max) and adds the page's exponentials. *max is -infinity before the first
    // page.
    float (*softmax_page)(float* scores, int32_t begin, int32_t end, float* max, float* sum);
};

// Loops over one row of logits. A NaN counts as -infinity.
struct LogitKernels {
    // Index of the largest of n elements, the lowest index where several are; 0 where all are -infinity.
    int64_t (*argmax)(const float* x, int64_t n);
    // Sum of exp((x[i] - max) * inv_temperature) over i < n; no x[i] exceeds max by more than rounding.
    double (*sum_exp)(const float* x, int64_t n, float max, float inv_temperature);
    // Which tokens of a block can win a draw (GumbelBlock). Bit i stands for token first_token + i. A set bit may be a
    // false alarm; a token that wins has its bit set.
    uint64_t (*gumbel_candidates)(const struct GumbelBlock& block);
};

// A token t wins against `best` where (scores[t] - max) / temperature + gumbel(word of t) >= best.
constexpr int64_t kGumbelBlock = 64;
struct GumbelBlock {
    const float* scores;  // [size], of the tokens from first_token on, which is a multiple of kGumbelBlock
    int64_t size;         // at most kGumbelBlock
    int64_t first_token;
    float max;
    float inv_temperature;
    float floor;  // tokens below it take no part
    float best;   // at least kGumbelMin: the best draw so far
    uint64_t seed;
    uint32_t position;
};

struct CpuKernels {
    RowKernels rows_f32, rows_f16, rows_bf16;
    AttentionKernels attention;
    LogitKernels logits;

    const RowKernels& rows(DType activation) const {
        if (activation == DType::F32) return rows_f32;
        return activation == DType::F16 ? rows_f16 : rows_bf16;
    }
};

// The table of an instruction set, which the processor must have.
const CpuKernels& kernels(CpuIsa isa);

extern const CpuKernels kPortableKernels;
#if defined(__x86_64__)
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
#endif

}  // namespace tinyllm::cpu
