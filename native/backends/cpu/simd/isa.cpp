#include "backends/cpu/simd/isa.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "core/error.h"

namespace tinyllm::cpu {

namespace {

constexpr CpuIsa kAll[] = {CpuIsa::Portable, CpuIsa::Avx2, CpuIsa::Avx512};

CpuIsa processor_isa() {
#if defined(__x86_64__)
    // GCC's checks include that the operating system saves the wider registers.
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
        return CpuIsa::Portable;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return CpuIsa::Avx2;
    return CpuIsa::Avx512;
#else
    return CpuIsa::Portable;
#endif
}

CpuIsa allowed_isa() {
    const char* text = std::getenv("TINYLLM_CPU_ISA");
    if (text == nullptr) return CpuIsa::Avx512;
    for (CpuIsa isa : kAll)
        if (std::string_view(text) == isa_name(isa)) return isa;
    fail(TL_STATUS_CONFIG, "TINYLLM_CPU_ISA = '", text,
         "'; expected portable, avx2 or avx512, or unset it to use the best that the processor has");
}

}  // namespace

CpuIsa detected_isa() { return std::min(processor_isa(), allowed_isa()); }

const char* isa_name(CpuIsa isa) {
    switch (isa) {
        case CpuIsa::Portable:
            return "portable";
        case CpuIsa::Avx2:
            return "avx2";
        case CpuIsa::Avx512:
            return "avx512";
    }
    return "?";
}

}  // namespace tinyllm::cpu
