// Tensor cores by mma.sync m16n8k16 (compute capability 8.0), fp32 accumulation.
//
// Lane 4g + t (g = 0..7, t = 0..3) holds, as pairs of neighbours in k packed into 32 bits:
//   A [16, 16]: a0 = (row g, k 2t), a1 = (row g + 8, k 2t), a2 = (row g, k 2t + 8), a3 = (row g + 8, k 2t + 8)
//   B [16, 8]:  b0 = (k 2t, column g), b1 = (k 2t + 8, column g)
//   C [16, 8]:  c0, c1 = (row g, columns 2t, 2t + 1), c2, c3 = (row g + 8, columns 2t, 2t + 1)
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace tinyllm::cuda {

// c += a b, T = __half or __nv_bfloat16.
template <typename T>
__device__ void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ inline void mma_m16n8k16<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ inline void mma_m16n8k16<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices of 16-bit elements from shared memory. Lane 8i + r gives the address of row r (16 bytes) of
// matrix i; every lane gets word t of row g of each. A row of eight k of one column is thus a fragment b0 or b1 of B.
__device__ inline void load_matrices(uint32_t (&matrix)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(matrix[0]), "=r"(matrix[1]), "=r"(matrix[2]), "=r"(matrix[3])
                 : "r"(address)
                 : "memory");
}

}  // namespace tinyllm::cuda
