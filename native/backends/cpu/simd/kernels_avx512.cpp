// The vector kernels, compiled for AVX-512.
#if defined(__x86_64__)
#include "backends/cpu/attention/attention_kernels_simd.h"
#include "backends/cpu/rows/row_kernels_simd.h"
#include "backends/cpu/sampling/logit_kernels_simd.h"
#include "backends/cpu/simd/kernels.h"
#include "backends/cpu/simd/simd_avx512.h"

namespace tinyllm::cpu {

using avx512::Vec;

constinit const CpuKernels kAvx512Kernels{simd_row_kernels<Vec, float>(),
                                          simd_row_kernels<Vec, f16>(),
                                          simd_row_kernels<Vec, bf16>(),
                                          {simd_multiply_add<Vec, 4>, simd_softmax_page<Vec>},
                                          simd_logit_kernels<Vec>()};

}  // namespace tinyllm::cpu
#endif
