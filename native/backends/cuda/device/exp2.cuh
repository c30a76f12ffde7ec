// Powers of two: softmax works in base 2, since the hardware has 2^x and not e^x.
#pragma once

namespace tinyllm::cuda {

// e^x = 2^(kLog2E x).
constexpr float kLog2E = 1.4426950408889634f;

// 2^x, of which ex2.approx is accurate to 2 ulp; 2^-inf = 0.
__device__ inline float exp2_fast(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

}  // namespace tinyllm::cuda
