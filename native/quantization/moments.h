// Second moments of a checkpoint tensor, which loading/importance.h carries through the layers. The host's version here
// is the reference; a backend may compute them elsewhere and gives the same bits.
#pragma once

#include "ops/backend.h"

namespace tinyllm {

// (W*W) m: second moments of the outputs of W for independent inputs of mean 0 and second moments m.
//
//   out[n] = sum over k of W[n, k]^2 * m[k]
//
// Each of 16 lanes (core/lanes.h) sums its k in ascending order, in float32 and without FMA; then the lanes are summed
// in order. moments: [tensor.cols]; out: [tensor.rows], written.
void output_moments(const HostTensor& tensor, const float* moments, float* out);

// Mean of the squares of each column: float64 sums over the rows in ascending order. out: [tensor.cols], written.
void column_moments(const HostTensor& tensor, float* out);

}  // namespace tinyllm
