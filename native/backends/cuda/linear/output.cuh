// The last step of the epilogue of every linear kernel: bias, then the form that LinearOutput asks for.
#pragma once

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/linear/linear.h"

namespace tinyllm::cuda {

// To about 2^-20, far below the rounding to 16 bits that follows.
__device__ inline float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// What outputs `first` (even) and `first + 1` of a token are added to, as read from memory; unset unless `out` asks for
// it. Kernels read it early, while they still wait for weights. Past L1: a predecessor may have written it while this
// kernel already ran.
template <typename T>
struct Addend {
    T value[2];

    __device__ void read(const LinearOutput& out, int32_t n, int64_t token, int32_t first) {
        if (out.kind != LinearOutput::Kind::AddTo) return;
        const T* source = static_cast<const T*>(out.data) + token * out.row_stride + first;
        if (first < n) value[0] = __ldcg(source);
        if (first + 1 < n) value[1] = __ldcg(source + 1);
    }
};

// Writes outputs `first` (even) and `first + 1` of one token; those from n on are dropped. `bias` may be null.
template <typename T>
__device__ void write_outputs(const LinearOutput& out, const float* bias, int32_t n, int64_t token, int32_t first,
                              float2 y, const Addend<T>& addend) {
    if (first >= n) return;
    const bool has_second = first + 1 < n;
    if (bias != nullptr) {
        y.x += bias[first];
        if (has_second) y.y += bias[first + 1];
    }
    if (out.kind == LinearOutput::Kind::SiluMul) {
        static_cast<T*>(out.data)[token * out.row_stride + first / 2] = round_to<T>(silu(y.x) * y.y);
        return;
    }
    const int64_t at = token * out.row_stride + first;
    if (out.kind == LinearOutput::Kind::StoreFloat) {
        static_cast<float*>(out.data)[at] = y.x;
        if (has_second) static_cast<float*>(out.data)[at + 1] = y.y;
    } else {
        if (out.kind == LinearOutput::Kind::AddTo) {
            y.x += widen(addend.value[0]);
            y.y += widen(addend.value[1]);
        }
        static_cast<T*>(out.data)[at] = round_to<T>(y.x);
        if (has_second) static_cast<T*>(out.data)[at + 1] = round_to<T>(y.y);
    }
}

}  // namespace tinyllm::cuda
