// Tolerances of the native tests, all in one place.
#pragma once

#include "check.h"
#include "core/dtype.h"

namespace tinyllm::test {

// Sums of fp32 products taken in another order.
constexpr Tolerance kFloatSums{1e-5, 1e-5};
// The vector exponential (backends/cpu/simd/simd_math.h): 2 units in the last place.
constexpr Tolerance kVectorExp{0, 2.4e-7};
// silu(x) * y with it; below e^-80 it is as good as 0.
constexpr Tolerance kSilu{1e-30, 1e-6};
// Log-softmax of logits of moderate size in fp32.
constexpr Tolerance kLogprob{2e-6, 2e-6};
// How near a sum of probabilities in fp32 comes to a threshold that it cannot tell from it, relative.
constexpr float kFilterBorder = 1e-5f;
// Angles in fp32 against fp64, for positions below 10,000.
constexpr Tolerance kRopeAngle{2e-3, 0};

// A result rounded to T once, of fp32 sums: half a unit in the last place of T, and what the sums differ by.
constexpr Tolerance rounded_once(DType dtype) {
    if (dtype == DType::F16) return {1e-5, 1e-3};
    if (dtype == DType::BF16) return {1e-5, 8e-3};
    return kFloatSums;
}

// Chi-square statistic of `freedom` degrees of freedom that a right sampler exceeds once in about 10^5 runs (normal
// approximation of Wilson and Hilferty 1931 at 4.27 standard deviations). Seeds are fixed, so a pass stays a pass.
inline double chi_square_limit(double freedom) {
    const double spread = 2.0 / (9.0 * freedom);
    return freedom * std::pow(1 - spread + 4.27 * std::sqrt(spread), 3);
}

}  // namespace tinyllm::test
