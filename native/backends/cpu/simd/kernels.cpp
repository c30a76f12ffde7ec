#include "backends/cpu/simd/kernels.h"

namespace tinyllm::cpu {

const CpuKernels& kernels([[maybe_unused]] CpuIsa isa) {
#if defined(__x86_64__)
    if (isa >= CpuIsa::Avx512) return kAvx512Kernels;
    if (isa >= CpuIsa::Avx2) return kAvx2Kernels;
#endif
    return kPortableKernels;
}

}  // namespace tinyllm::cpu
