// Which scale each group of int8 weights gets: the host's version.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "ops/backend.h"

namespace tinyllm {

// Factors r that are tried: kFirstFactor / 100, ..., kLastFactor / 100. Below 1 the largest weights are clipped.
constexpr int kFirstFactor = 90, kLastFactor = 120;

// Chooses the scale of every group of group_length weights w (the last of a row may be shorter) of `tensor`:
//
//   s = the f16(r * absmax / 127) with the least sum over the group of importance[k] * (w[k] - q[k] * s)^2,
//   q[k] = clamp(round_half_even(w[k] / s), -127, 127)
//
// for r = 0.90, 0.91, ..., 1.20; of equal sums that of r = 1 counts as the least, then that of the smallest r. So
// weights that are int8 times an absmax scale already stay what they are. A scale that is 0 or infinite for r = 1 is
// left at that (Backend::load_linear stores the one as zeros and refuses the other), for another r it is passed over,
// as is a sum that is no number.
//
// The arithmetic is float32 without FMA: w / s is w * (1 / s), and each of 16 lanes (core/lanes.h), counted from the
// group's start, sums its k in ascending order; then the lanes are summed in order. This is the reference:
// backends/cuda/loading/scale_search.cu gives the same bits.
//
// importance: [tensor.cols], how much the error of an input's weights matters (loading/importance.h), null for equally.
// scales: written, [tensor.rows, groups]. The result depends on neither the instruction set nor the number of threads.
// Runs on the threads of parallel_for.
void choose_scales(const HostTensor& tensor, int32_t group_length, const float* importance, f16* scales);

}  // namespace tinyllm
