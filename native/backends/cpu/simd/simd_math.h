// Elementary functions on vectors, for any Vec of simd_avx2.h or simd_avx512.h.
#pragma once

namespace tinyllm::cpu {

// e^x for each lane, within 2 units in the last place where the result is a normal number; 0 below ln(2^-126), where
// it would be subnormal, and for -infinity; NaN for NaN. The argument must not exceed 88 (here: softmax and silu of
// moderate values).
//
// x = n ln 2 + r with whole n and |r| <= ln(2) / 2. ln 2 is split in two (Cody and Waite, "Software manual for the
// elementary functions", 1980), so that n times the first part is exact. e^r is a polynomial of degree 6 whose
// coefficients are those of expf in S. L. Moshier's Cephes library.
template <typename V>
typename V::Float exp(typename V::Float x) {
    using Float = typename V::Float;
    constexpr float kLog2e = 1.44269504088896341f;
    constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
    constexpr float kLowest = -87.3365447f;  // ln(2^-126)
    const auto vanishes = V::less(x, V::set(kLowest));
    const Float n = V::round(x * V::set(kLog2e));
    Float r = V::fma(n, V::set(-kLn2High), x);
    r = V::fma(n, V::set(-kLn2Low), r);
    Float p = V::set(1.9875691500e-4f);
    p = V::fma(p, r, V::set(1.3981999507e-3f));
    p = V::fma(p, r, V::set(8.3334519073e-3f));
    p = V::fma(p, r, V::set(4.1665795894e-2f));
    p = V::fma(p, r, V::set(1.6666665459e-1f));
    p = V::fma(p, r, V::set(5.0000001201e-1f));
    p = V::fma(p, r * r, r) + V::set(1.0f);
    return V::select(vanishes, V::zero(), V::scale_by_power_of_2(p, n));
}

}  // namespace tinyllm::cpu
