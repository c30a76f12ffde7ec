// How each backend lays out the weights of one linear layer, and how many bytes that takes. The plan, the loaders and
// the kernels all take it from here.
//
// CPU: data [n, k] row-major, scales f16 [n, groups].
//
// CUDA: rows are padded to kCudaRowAlign and inputs to kCudaColAlign (zeros; the plan shows the padded shape). data is
// row-major [n_padded, k_padded] with the inputs of each 64-block permuted by cuda_packed_col(), so that the 16 bytes
// (int8) which thread t of a quad reads are exactly its A fragments of four mma.m16n8k16 (or wgmma k16) steps:
// inputs {2t, 2t+1, 2t+8, 2t+9} + 16 j for j = 0..3. 16-bit weights use the same order. scales are transposed, f16
// [groups, n_padded]: the 16 rows of a fragment then lie side by side.
#pragma once

#include <cstdint>

#include "config/kinds.h"
#include "core/dtype.h"
#include "core/host_device.h"

namespace tinyllm {

constexpr int32_t kCudaRowAlign = 16;
constexpr int32_t kCudaColAlign = 64;

// Column of input k in a packed row.
TL_HOST_DEVICE constexpr int32_t cuda_packed_col(int32_t k) {
    const int32_t block = k / 64 * 64, step = k % 64 / 16, in_step = k % 16;
    const int32_t thread = in_step % 8 / 2, half = in_step / 8;
    return block + thread * 16 + step * 4 + half * 2 + in_step % 2;
}

struct LinearLayout {
    int64_t n_padded;
    int64_t k_padded;
    int64_t groups;        // scales per row; 0 where not quantised
    int64_t element_size;  // bytes of a weight

    int64_t weight_bytes() const { return n_padded * k_padded * element_size; }
    int64_t scale_bytes() const { return n_padded * groups * 2; }
};

LinearLayout linear_layout(DeviceKind device, QuantizationType quantization, DType dtype, int32_t n, int32_t k,
                           int32_t group_length);

}  // namespace tinyllm
