#include "quantization/layout.h"

namespace tinyllm {

namespace {
int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
}  // namespace

LinearLayout linear_layout(DeviceKind device, QuantizationType quantization, DType dtype, int32_t n, int32_t k,
                           int32_t group_length) {
    LinearLayout layout{n, k, 0, static_cast<int64_t>(dtype_size(dtype))};
    if (device == DeviceKind::Cuda) {
        layout.n_padded = round_up(n, kCudaRowAlign);
        layout.k_padded = round_up(k, kCudaColAlign);
    }
    if (quantization == QuantizationType::W8A16) {
        layout.groups = (k + group_length - 1) / group_length;
        layout.element_size = 1;
    }
    return layout;
}

}  // namespace tinyllm
