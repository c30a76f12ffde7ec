// Which prefill kernel computes a linear layer.
#include "backends/cuda/linear/prefill.h"

#include "backends/cuda/runtime/device_info.h"

namespace tinyllm::cuda {

void linear_prefill(cudaStream_t cuda_stream, DType activation, const LinearWeight& weight, const void* x,
                    int64_t x_row_stride, int64_t tokens, const LinearOutput& out) {
    const bool use_sm90 = device_traits().sm90a && has_aligned_rows(x, x_row_stride, weight.k);
    const auto launch = use_sm90 ? linear_prefill_sm90 : linear_prefill_sm80;
    launch(cuda_stream, activation, weight, x, x_row_stride, tokens, out);
}

}  // namespace tinyllm::cuda
