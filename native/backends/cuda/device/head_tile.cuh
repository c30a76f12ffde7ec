// Tiles of keys, values or queries in shared memory: [rows, kHeadDim] 16-bit elements, in 16-byte vectors. The layout
// puts the equal vectors of eight consecutive rows, which ldmatrix reads together, into different banks: vectors are
// permuted within a row by XOR with the row where a row is a multiple of 128 bytes, else a row is padded to an odd
// number of vectors.
#pragma once

#include <cstdint>

#include "backends/cuda/device/async_copy.cuh"

namespace tinyllm::cuda {

template <int kHeadDim>
struct HeadTile {
    static_assert(kHeadDim % 16 == 0);
    static constexpr int kVectors = kHeadDim / 8;  // of a row
    static constexpr bool kPermuted = kVectors % 8 == 0;
    static constexpr int kPitch = (kPermuted ? kVectors : kVectors + 1) * 16;  // bytes from row to row

    static constexpr int bytes(int rows) { return rows * kPitch; }

    // Byte of a vector, from the tile's start.
    static __device__ uint32_t offset(int row, int vector) {
        return row * kPitch + (kPermuted ? vector ^ (row & 7) : vector) * 16;
    }

    // Address of vector c + 2 * pairs of the same row, from that of vector c = 0 or 1. PRECOND: the tile's start is a
    // multiple of kPitch where kPermuted.
    static __device__ uint32_t advance(uint32_t address, int pairs) {
        return kPermuted ? address ^ (pairs * 32) : address + pairs * 32;
    }

    // Requests rows [0, kRows) by kThreads threads; row r lies at source + r * stride elements.
    template <int kRows, int kThreads, typename T>
    static __device__ void request(uint32_t tile, const T* source, int64_t stride, int thread) {
        static_assert(kRows * kVectors % kThreads == 0);
#pragma unroll
        for (int i = 0; i < kRows * kVectors / kThreads; ++i) {
            const int index = thread + i * kThreads, row = index / kVectors, vector = index % kVectors;
            copy_async_16(tile + offset(row, vector), source + row * stride + vector * 8);
        }
    }

    // As above, but rows outside [valid_begin, valid_end) are not read and become zero: what nobody wrote may be NaN,
    // and 0 * NaN is NaN.
    template <int kRows, int kThreads, typename T>
    static __device__ void request_valid(uint32_t tile, const T* source, int64_t stride, int valid_begin, int valid_end,
                                         int thread) {
        static_assert(kRows * kVectors % kThreads == 0);
#pragma unroll
        for (int i = 0; i < kRows * kVectors / kThreads; ++i) {
            const int index = thread + i * kThreads, row = index / kVectors, vector = index % kVectors;
            const bool valid = row >= valid_begin && row < valid_end;
            copy_async_16(tile + offset(row, vector), source + (valid ? row * stride + vector * 8 : 0), valid ? 16 : 0);
        }
    }
};

}  // namespace tinyllm::cuda
