// LogitKernels as templates over a vector type V (simd_avx2.h, simd_avx512.h).
#pragma once

#include <cstdint>

#include "backends/cpu/simd/kernels.h"
#include "backends/cpu/simd/simd_math.h"
#include "ops/philox.h"

namespace tinyllm::cpu {

// Largest of n elements, -infinity where there is none.
template <typename V>
float simd_max(const float* x, int64_t n) {
    typename V::Float max = V::set(-__builtin_inff());
    int64_t i = 0;
    for (; i + V::kWidth <= n; i += V::kWidth) max = V::max(V::load(x + i), max);
    float out = V::max_of(max);
    for (; i < n; ++i)
        if (x[i] > out) out = x[i];
    return out;
}

// Only the block that holds the first maximum is searched for its place.
template <typename V>
int64_t simd_argmax(const float* x, int64_t n) {
    constexpr int64_t kBlock = 1024;
    int64_t block = 0;
    float best = -__builtin_inff();
    for (int64_t begin = 0; begin < n; begin += kBlock) {
        const float max = simd_max<V>(x + begin, n - begin < kBlock ? n - begin : kBlock);
        if (max > best) {
            best = max;
            block = begin;
        }
    }
    for (int64_t i = block; i < n; ++i)
        if (x[i] == best) return i;
    return 0;
}

template <typename V>
double simd_sum_exp(const float* x, int64_t n, float max_in, float inv_temperature) {
    using Float = typename V::Float;
    // Each block is summed in float, its total in double: a row of 100,000 small terms would lose digits.
    constexpr int64_t kBlock = 1024;
    const Float max = V::set(max_in), scale = V::set(inv_temperature), lowest = V::set(-__builtin_inff());
    const auto term = [&](Float v) { return exp<V>((V::max(v, lowest) - max) * scale); };
    double total = 0;
    for (int64_t begin = 0; begin < n; begin += kBlock) {
        const int64_t end = begin + kBlock < n ? begin + kBlock : n;
        Float sum = V::zero();
        int64_t i = begin;
        for (; i + V::kWidth <= end; i += V::kWidth) sum = sum + term(V::load(x + i));
        if (i < end) {
            const int count = static_cast<int>(end - i);
            const Float v = V::select(V::lanes(0, count), V::load_first(x + i, count), lowest);
            sum = sum + term(v);
        }
        total += static_cast<double>(V::sum(sum));
    }
    return total;
}

// The four words of kWidth counters, as kWidth * 4 consecutive tokens from 4 * counter on: words[v] belongs to the v-th
// vector of tokens.
template <typename V>
void simd_philox(uint64_t seed, uint32_t counter, uint32_t position, typename V::Int (&words)[4]) {
    using Int = typename V::Int;
    Int c0 = V::add(V::set_int(counter), V::interleaved_lanes()), c1 = V::set_int(position);
    Int c2 = V::set_int(0), c3 = V::set_int(0);
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
        Int high0, low0, high1, low1;
        V::multiply_wide(c0, kPhiloxMul0, high0, low0);
        V::multiply_wide(c2, kPhiloxMul1, high1, low1);
        c0 = V::exclusive_or(V::exclusive_or(high1, c1), V::set_int(key0));
        c1 = low1;
        c2 = V::exclusive_or(V::exclusive_or(high0, c3), V::set_int(key1));
        c3 = low0;
        key0 += kPhiloxKeyStep0;
        key1 += kPhiloxKeyStep1;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
    V::transpose_quads(words);
}

// A token wins where its noise g >= y := best - score. With u the uniform number behind g = -log(-log u), that is
// u >= exp(-exp(-y)), which needs 1 - u <= 1 - exp(-exp(-y)) <= exp(-y): one exponential instead of two logarithms,
// with a margin for rounding.
template <typename V>
uint64_t simd_gumbel_candidates(const GumbelBlock& block) {
    using Float = typename V::Float;
    constexpr float kMargin = 1.001f;
    constexpr int kVectors = static_cast<int>(kGumbelBlock) / V::kWidth;
    const Float lowest = V::set(-__builtin_inff()), max = V::set(block.max), scale = V::set(block.inv_temperature);
    const Float least = V::set(block.best - kGumbelMax), floor = V::set(block.floor);
    Float score[kVectors];
    uint64_t possible = 0;  // by score alone
    for (int v = 0; v < kVectors; ++v) {
        const int64_t left = block.size - v * V::kWidth;
        const float* p = block.scores + v * V::kWidth;
        const int count = left < 0 ? 0 : (left < V::kWidth ? static_cast<int>(left) : V::kWidth);
        Float x = lowest;
        if (count == V::kWidth)
            x = V::load(p);
        else if (count > 0)
            x = V::select(V::lanes(0, count), V::load_first(p, count), lowest);
        score[v] = V::select(V::less_equal(floor, x), (x - max) * scale, lowest);
        possible |= static_cast<uint64_t>(V::bits(V::less_equal(least, score[v]))) << (v * V::kWidth);
    }
    if (possible == 0) return 0;
    uint64_t candidates = 0;
    for (int v = 0; v < kVectors; v += 4) {
        typename V::Int words[4];
        const int64_t first_token = block.first_token + v * V::kWidth;
        simd_philox<V>(block.seed, static_cast<uint32_t>(first_token / 4), block.position, words);
        for (int i = 0; i < 4; ++i) {
            // 1 - uniform_open(word) = (2^23 - (word >> 9) - 1/2) / 2^23, exact in float.
            const Float bits = V::to_float(V::shift_right(words[i], 9));
            const Float one_minus_u = (V::set(8388607.5f) - bits) * V::set(1.0f / 8388608.0f);
            const Float bound = exp<V>(score[v + i] - V::set(block.best)) * V::set(kMargin);
            candidates |= static_cast<uint64_t>(V::bits(V::less_equal(one_minus_u, bound))) << ((v + i) * V::kWidth);
        }
    }
    return candidates & possible;
}

template <typename V>
constexpr LogitKernels simd_logit_kernels() noexcept {
    return {simd_argmax<V>, simd_sum_exp<V>, simd_gumbel_candidates<V>};
}

}  // namespace tinyllm::cpu
