// Quantisation of a checkpoint tensor into the CPU backend's weights (layout: quantization/layout.h).
#pragma once

#include <cstdint>

#include "backends/cpu/simd/isa.h"
#include "ops/backend.h"

namespace tinyllm::cpu {

// The quantising part of Backend::load_linear: fills the rows of `weight` that `rows` names from `tensor`
// ([tensor.rows, weight.k]; its data may be unaligned) and returns the flat index of its first bad value, or -1.
// `scales`: [tensor.rows, groups], finite and not negative; null: f16(absmax / 127) of each group. Bad is NaN or Inf,
// and what the target cannot hold: a value whose group's scale overflows f16 or, unquantised, one that is finite in the
// tensor but infinite in weight.dtype. The contents of `weight` are undefined where a value is bad. Every instruction
// set gives the same bits.
int64_t quantize_linear(CpuIsa isa, const LinearWeight& weight, const RowMap& rows, const HostTensor& tensor,
                        const f16* scales);

}  // namespace tinyllm::cpu
