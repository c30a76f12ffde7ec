// Which scale each group of int8 weights gets.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "ops/backend.h"

namespace tinyllm {

// Chooses the scale of every group of group_length weights w (the last of a row may be shorter) of `tensor`:
//
//   s = the f16(r * absmax / 127) with the least sum over the group of importance[k] * (w[k] - q[k] * s)^2,
//   q[k] = clamp(round_half_even(w[k] / s), -127, 127)
//
// for r = 1 and 30 other factors from 0.9 to 1.2; r = 1 where none is better, so weights that are int8 times such a
// scale already stay what they are. A scale that is 0 or infinite for r = 1 is left at that: Backend::load_linear
// stores the one as zeros and refuses the other.
//
// importance: [tensor.cols], how much the error of an input's weights matters (model/importance.h), null for equally.
// scales: written, [tensor.rows, groups]. The result depends on neither the instruction set nor the number of threads.
// Runs on the threads of parallel_for.
void choose_scales(const HostTensor& tensor, int32_t group_length, const float* importance, f16* scales);

}  // namespace tinyllm
