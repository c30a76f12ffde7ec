// Quantisation of one row; between quantize.cpp, which goes over the rows, and the loops for each instruction set.
#pragma once

#include <cstdint>

#include "ops/backend.h"

namespace tinyllm::cpu {

// A row of a checkpoint tensor.
struct SourceRow {
    DType dtype;
    const void* data;   // weight.k elements, perhaps unaligned
    const f16* scales;  // [groups] to quantise with, or null: absmax / 127
};

// Fills row `row` of `weight` from `source`, as quantize_linear() does. False where an element is bad; the row's
// contents are then undefined.
bool quantize_row_portable(const LinearWeight& weight, int64_t row, const SourceRow& source);
#if defined(__x86_64__)
bool quantize_row_avx2(const LinearWeight& weight, int64_t row, const SourceRow& source);
bool quantize_row_avx512(const LinearWeight& weight, int64_t row, const SourceRow& source);
#endif

}  // namespace tinyllm::cpu
