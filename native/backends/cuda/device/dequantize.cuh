// Four int8 of a 32-bit word to four 16-bit floats, exactly (-128..127 are representable in both types).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace tinyllm::cuda {

// low = elements 0 and 1, high = elements 2 and 3.
template <typename T>
__device__ void int8_to_float16(uint32_t word, uint32_t& low, uint32_t& high);

// q + 128 as the low byte of 0x64xx is the f16 number 1024 + 128 + q: one subtraction is left.
template <>
__device__ inline void int8_to_float16<__half>(uint32_t word, uint32_t& low, uint32_t& high) {
    const uint32_t biased = word ^ 0x80808080u;
    low = __byte_perm(biased, 0x64646464u, 0x4140);
    high = __byte_perm(biased, 0x64646464u, 0x4342);
    const uint32_t offset = 0x64806480u;  // 1152, 1152
    asm("sub.f16x2 %0, %0, %1;" : "+r"(low) : "r"(offset));
    asm("sub.f16x2 %0, %0, %1;" : "+r"(high) : "r"(offset));
}

// bf16 has 7 bits behind the point: 0x4300 | (q & 0x7f) is 128 + (q & 0x7f), and 0x4300 | (q & 0x80) is 128 or, for
// negative q, 256. Their difference is q.
template <>
__device__ inline void int8_to_float16<__nv_bfloat16>(uint32_t word, uint32_t& low, uint32_t& high) {
    const auto convert = [](uint32_t bytes) {
        uint32_t magnitude = bytes & 0xff7fff7fu, sign = bytes & 0xff80ff80u, result;
        // magnitude - sign: this form exists from compute capability 8.0 on, sub.bf16x2 only from 9.0.
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(sign), "r"(0xbf80bf80u), "r"(magnitude));
        return result;
    };
    low = convert(__byte_perm(word, 0x43434343u, 0x4140));
    high = convert(__byte_perm(word, 0x43434343u, 0x4342));
}

}  // namespace tinyllm::cuda
