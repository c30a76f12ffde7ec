// Quantisation of one row; between quantize.cpp, which goes over the rows, and the loops for each instruction set.
#pragma once

#include <cstdint>

#include "ops/backend.h"

namespace tinyllm {

// Fills one row of `weight` from weight.k elements of type `source` at `data`, as quantize_linear() does. False where
// an element is bad; the row's contents are then undefined.
bool quantize_row_portable(const LinearWeight& weight, int64_t row, DType source, const void* data);
#if defined(__x86_64__)
bool quantize_row_avx2(const LinearWeight& weight, int64_t row, DType source, const void* data);
bool quantize_row_avx512(const LinearWeight& weight, int64_t row, DType source, const void* data);
#endif

}  // namespace tinyllm
