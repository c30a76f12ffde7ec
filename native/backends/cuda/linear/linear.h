// Linear layers on the GPU: y = x W^T + b with the weight in the packed layout of quantization/layout.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/runtime/scratch.h"
#include "core/dtype.h"
#include "ops/ops.h"

namespace tinyllm::cuda {

// Where the result of a linear layer goes. Output i of token r in the layer's float32 result y
// (bias already added):
//   Store       T     data[r * row_stride + i]  = y[r, i]
//   AddTo       T     data[r * row_stride + i] += y[r, i]      (added in float32, rounded once)
//   SiluMul     T     data[r * row_stride + i]  = silu(y[r, 2i]) * y[r, 2i + 1] for i < n / 2 (n is even)
//   StoreFloat  float data[r * row_stride + i]  = y[r, i]
// Outputs of the padded rows n..n_padded of the weight are never written.
struct LinearOutput {
    enum class Kind : int32_t { Store, AddTo, SiluMul, StoreFloat };
    Kind kind = Kind::Store;
    void* data = nullptr;
    int64_t row_stride = 0;  // elements
};

// Enqueues y = x W^T + b for `tokens` tokens.
//   activation: type T of x and of all outputs but StoreFloat: F16 or BF16
//   x: T [tokens, weight.k], token r at x + r * x_row_stride elements; its 16-byte alignment is not promised (any k)
// In Phase::Decode the order of the sum over k depends on the weight's shape only, not on `tokens`. Throws CudaError
// where a launch fails.
void linear(cudaStream_t cuda_stream, Scratch scratch, Phase phase, DType activation, const LinearWeight& weight,
            const void* x, int64_t x_row_stride, int64_t tokens, const LinearOutput& out);

// RMSNorm of the input of a layer: token r is RMSNorm(x[row_index[r]]), or of x[r] where row_index is null.
struct InputNorm {
    NormWeight norm;                     // weight null: no norm
    const int32_t* row_index = nullptr;  // device memory, [tokens]
    void* normed = nullptr;              // scratch T [tokens, k]
};

// As linear on the normalised input; x: T [.., weight.k], contiguous. `norm.normed` may be left as it was.
void normed_linear(cudaStream_t cuda_stream, Scratch scratch, Phase phase, DType activation, const InputNorm& norm,
                   const LinearWeight& weight, const void* x, int64_t tokens, const LinearOutput& out);

// Whether the rows of x (16-bit elements) can be copied in 16-byte vectors.
inline bool has_aligned_rows(const void* x, int64_t x_row_stride, int32_t k) {
    return reinterpret_cast<uintptr_t>(x) % 16 == 0 && x_row_stride % 8 == 0 && k % 8 == 0;
}

}  // namespace tinyllm::cuda
