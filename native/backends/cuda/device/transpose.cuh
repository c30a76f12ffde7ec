// Transposed 8 x 8 matrices of 16-bit elements (compute capability 8.0); layout of the fragments: mma.cuh.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace tinyllm {

// As load_matrices(), each matrix transposed on the way: lane 4g + t gets rows 2t and 2t + 1 of column g.
__device__ inline void load_matrices_transposed(uint32_t (&matrix)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(matrix[0]), "=r"(matrix[1]), "=r"(matrix[2]), "=r"(matrix[3])
                 : "r"(address)
                 : "memory");
}

// The transpose of a matrix of which lane 4g + t holds columns 2t and 2t + 1 of row g.
__device__ inline uint32_t transpose_matrix(uint32_t word) {
    uint32_t result;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(word));
    return result;
}

// Two floats as neighbours of type T in a register, `low` first.
template <typename T>
__device__ uint32_t pack_pair(float low, float high);

template <>
__device__ inline uint32_t pack_pair<__half>(float low, float high) {
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

template <>
__device__ inline uint32_t pack_pair<__nv_bfloat16>(float low, float high) {
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

// 2^x, of which ex2.approx is accurate to 2 ulp; 2^-inf = 0.
__device__ inline float exp2_fast(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

}  // namespace tinyllm
