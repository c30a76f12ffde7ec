// Approximate arithmetic of the special function unit.
#pragma once

namespace tinyllm::cuda {

// 1 / x to within 1 ulp, for normal x.
__device__ inline float reciprocal(float x) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

}  // namespace tinyllm::cuda
