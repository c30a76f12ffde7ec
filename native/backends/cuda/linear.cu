// Which kernel computes a linear layer.
#include "backends/cuda/linear.h"

#include "backends/cuda/linear_prefill.h"
#include "backends/cuda/linear_simple.h"

namespace tinyllm {

void linear_cuda(cudaStream_t cuda_stream, Scratch, Phase phase, DType activation, const LinearWeight& weight,
                 const void* x, int64_t x_row_stride, int64_t rows, const LinearOutput& out) {
    if (rows == 0) return;
    const auto launch = phase == Phase::Prefill ? linear_prefill_cuda : linear_simple_cuda;
    launch(cuda_stream, activation, weight, x, x_row_stride, rows, out);
}

int64_t linear_scratch_bytes(const ModelConfig&, const EngineConfig&) { return 0; }

}  // namespace tinyllm
