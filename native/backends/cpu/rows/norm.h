// RMSNorm of rows, for the ops that begin with it.
#pragma once

#include <cstdint>

#include "backends/cpu/simd/kernels.h"
#include "ops/ops.h"

namespace tinyllm::cpu {

// out[i] = RMSNorm(x[row_of[i]]) for i < rows; row_of null: row i. x: T [.., dim]; out: T [rows, dim], with T =
// `activation`. RMSNorm(x) = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019), rounded to T once.
void rms_norm_rows(const CpuKernels& kernels, DType activation, const NormWeight& norm, const void* x,
                   const int32_t* row_of, int64_t rows, int64_t dim, void* out);

}  // namespace tinyllm::cpu
