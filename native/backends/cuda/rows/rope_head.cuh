// Per-head RMSNorm and RoPE of one head (rows/rope_append.cu, attention/decode_append.cuh).
#pragma once

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "ops/ops.h"

namespace tinyllm::cuda {

// Multiplies a value of a head by this before its weight: 1 / rms of the head, or 1 without a norm.
template <typename T>
__device__ float head_norm_factor(const NormWeight& norm, const T* head, int32_t head_dim, int lane) {
    if (norm.weight == nullptr) return 1.0f;
    float sum = 0;
    for (int32_t i = lane; i < head_dim; i += kWarpSize) sum += widen(head[i]) * widen(head[i]);
    return rsqrtf(warp_reduce(sum, Sum{}) / static_cast<float>(head_dim) + norm.eps);
}

// target = RoPE(norm(head)) on the first rotary_dim elements, pairs (i, i + rotary_dim / 2); one warp. `target` may be
// `head` itself. cosine: [2, rotary_dim / 2] of the row, the sines behind the cosines.
template <typename T>
__device__ void rotate_head(const NormWeight& norm, const float* cosine, int32_t rotary_dim, const T* head,
                            int32_t head_dim, T* target, int lane) {
    const float factor = head_norm_factor(norm, head, head_dim, lane);
    const auto value = [&](int32_t i) {
        return widen(head[i]) * factor * (norm.weight == nullptr ? 1.0f : norm.weight[i]);
    };
    const int32_t half = rotary_dim / 2;
    const float* sine = cosine + half;
    // Two pairs of a lane at a time: all of 128 elements are then loaded before the first is stored.
    for (int32_t i = lane; i < half; i += 2 * kWarpSize) {
        const int32_t j = i + kWarpSize;
        const bool has_second = j < half;
        const float a = value(i), b = value(i + half), cos_a = cosine[i], sin_a = sine[i];
        const float c = has_second ? value(j) : 0, d = has_second ? value(j + half) : 0;
        const float cos_c = has_second ? cosine[j] : 0, sin_c = has_second ? sine[j] : 0;
        target[i] = round_to<T>(a * cos_a - b * sin_a);
        target[i + half] = round_to<T>(b * cos_a + a * sin_a);
        if (!has_second) continue;
        target[j] = round_to<T>(c * cos_c - d * sin_c);
        target[j + half] = round_to<T>(d * cos_c + c * sin_c);
    }
    for (int32_t i = rotary_dim + lane; i < head_dim; i += kWarpSize) target[i] = round_to<T>(value(i));
}

}  // namespace tinyllm::cuda
