// Which prefill kernel computes a linear layer.
#include "backends/cuda/linear_prefill.h"

#include <string_view>

#include "backends/cuda/runtime/device_info.h"

namespace tinyllm {

void linear_prefill_cuda(cudaStream_t cuda_stream, DType activation, const LinearWeight& weight, const void* x,
                         int64_t x_row_stride, int64_t rows, const LinearOutput& out) {
    // wgmma belongs to the architecture-specific target 9.0a: neither other devices nor code built for plain 9.0 have
    // it.
    constexpr bool kHasSm90a = std::string_view(TINYLLM_CUDA_ARCHITECTURES).find("90a") != std::string_view::npos;
    const bool use_sm90 =
        kHasSm90a && device_traits().compute_capability == 90 && has_aligned_rows(x, x_row_stride, weight.k);
    const auto launch = use_sm90 ? linear_prefill_sm90 : linear_prefill_sm80;
    launch(cuda_stream, activation, weight, x, x_row_stride, rows, out);
}

}  // namespace tinyllm
