// The last step of every linear kernel: bias, then the form that LinearOutput asks for.
#pragma once

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/linear.h"

namespace tinyllm {

__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }

// Writes outputs `first` (even) and `first + 1` of one row; those from n on are dropped. `bias` may be null.
template <typename T>
__device__ void write_output_pair(const LinearOutput& out, const float* bias, int32_t n, int64_t row, int32_t first,
                                  float y0, float y1) {
    if (first >= n) return;
    const bool has_second = first + 1 < n;
    if (bias != nullptr) {
        y0 += bias[first];
        if (has_second) y1 += bias[first + 1];
    }
    const int64_t at = row * out.row_stride + first;
    switch (out.kind) {
        case LinearOutput::Kind::SiluMul:
            static_cast<T*>(out.data)[row * out.row_stride + first / 2] = round_to<T>(silu(y0) * y1);
            return;
        case LinearOutput::Kind::StoreFloat: {
            float* target = static_cast<float*>(out.data) + at;
            target[0] = y0;
            if (has_second) target[1] = y1;
            return;
        }
        case LinearOutput::Kind::AddTo:
        case LinearOutput::Kind::Store: {
            // Read past L1: a predecessor may have written it while this kernel was already running.
            T* target = static_cast<T*>(out.data) + at;
            const bool add = out.kind == LinearOutput::Kind::AddTo;
            target[0] = round_to<T>(add ? widen(__ldcg(target)) + y0 : y0);
            if (has_second) target[1] = round_to<T>(add ? widen(__ldcg(target + 1)) + y1 : y1);
            return;
        }
    }
}

}  // namespace tinyllm
