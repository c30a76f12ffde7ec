// Fragments of 16-bit elements in addition to those of mma.cuh, which states their layout: transposed 8 x 8 matrices
// (compute capability 8.0), and pairs made from accumulators.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace tinyllm::cuda {

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

}  // namespace tinyllm::cuda
