// The vector kernels, compiled for AVX2.
#if defined(__x86_64__)
#include "backends/cpu/attention/attention_kernels_simd.h"
#include "backends/cpu/rows/row_kernels_simd.h"
#include "backends/cpu/sampling/logit_kernels_simd.h"
#include "backends/cpu/simd/kernels.h"
#include "backends/cpu/simd/simd_avx2.h"

namespace tinyllm::cpu {

using avx2::Vec;

constinit const CpuKernels kAvx2Kernels{simd_row_kernels<Vec, float>(),
                                        simd_row_kernels<Vec, f16>(),
                                        simd_row_kernels<Vec, bf16>(),
                                        {simd_multiply_add<Vec, 2>, simd_softmax_page<Vec>},
                                        simd_logit_kernels<Vec>()};

}  // namespace tinyllm::cpu
#endif
