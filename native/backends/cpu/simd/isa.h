// Instruction sets that the CPU kernels are written for.
#pragma once

#include <cstdint>

namespace tinyllm::cpu {

// Each includes the ones before it. Portable is plain C++, the reference for the others.
enum class CpuIsa : int32_t {
    Portable,
    Avx2,    // AVX2, FMA, F16C
    Avx512,  // and AVX-512 F, BW, VL, DQ
};

// The best set that the processor and its operating system offer, or TINYLLM_CPU_ISA = portable, avx2 or avx512 where
// that is lower. Throws a Config error for another value.
CpuIsa detected_isa();

// As TINYLLM_CPU_ISA spells it.
const char* isa_name(CpuIsa isa);

}  // namespace tinyllm::cpu
