// PackedWeight: a linear weight in the layout of quantization/layout.h, read one value at a time.
#pragma once

#include "backends/cuda/device/convert.cuh"
#include "ops/ops.h"
#include "quantization/layout.h"

namespace tinyllm::cuda {

struct PackedWeight {
    const void* data;      // int8 or T [n_padded, k_padded]
    const __half* scales;  // [groups, n_padded], null where not quantised
    int32_t n;
    int32_t k;
    int32_t n_padded;
    int32_t k_padded;
    int32_t group_length;

    explicit PackedWeight(const LinearWeight& weight)
        : data(weight.data),
          scales(static_cast<const __half*>(weight.scales)),
          n(weight.n),
          k(weight.k),
          group_length(weight.group_length) {
        const LinearLayout layout =
            linear_layout(DeviceKind::Cuda, weight.quantization, weight.dtype, weight.n, weight.k, weight.group_length);
        n_padded = static_cast<int32_t>(layout.n_padded);
        k_padded = static_cast<int32_t>(layout.k_padded);
    }

    // The dequantised weight of output `row` and input `col`; T is the type of unquantised weights.
    template <typename T>
    __device__ float value(int32_t row, int32_t col) const {
        const int64_t at = int64_t{row} * k_padded + cuda_packed_col(col);
        if (scales == nullptr) return widen(static_cast<const T*>(data)[at]);
        const float scale = widen(scales[int64_t{col / group_length} * n_padded + row]);
        return static_cast<float>(static_cast<const int8_t*>(data)[at]) * scale;
    }
};

}  // namespace tinyllm::cuda
