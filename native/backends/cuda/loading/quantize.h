// Quantisation on the GPU: rows of a checkpoint tensor into the packed layout of quantization/layout.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/dtype.h"
#include "ops/backend.h"

namespace tinyllm::cuda {

// Consecutive rows of a checkpoint tensor in device memory; `data` is 16-byte aligned.
struct RawRows {
    const void* data = nullptr;   // [num_rows, cols]
    const f16* scales = nullptr;  // [num_rows, groups] to quantise with, null: f16(max |w| / 127)
    DType dtype = DType::F32;
    int64_t num_rows = 0;
    int64_t cols = 0;
    int64_t first_row = 0;  // of these rows in the tensor
};

// Enqueues the quantisation (W8A16) or conversion (NONE) of `raw` into the rows of `weight` that `rows` names; inputs
// beyond `cols` become zero. Lowers *first_bad (device memory) to the smallest flat index in the tensor of a value that
// cannot be stored: NaN, Inf, or one that overflows f16 (its group's scale, or unquantised itself). Throws CudaError.
void quantize_rows(cudaStream_t cuda_stream, const RawRows& raw, const LinearWeight& weight, const RowMap& rows,
                   unsigned long long* first_bad);

// Enqueues zeros into the rows that pad `weight` to its layout.
void zero_padding_rows(cudaStream_t cuda_stream, const LinearWeight& weight);

}  // namespace tinyllm::cuda
