// x of a decode linear with few rows: to shared memory as a whole, normalised on the way where wanted.
#pragma once

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/linear_decode_split.h"

namespace tinyllm {

struct DecodeInput {
    const void* x;             // T [.., k]
    int64_t row_stride;        // elements
    const int32_t* row_index;  // row of x for each row, or null: 0, 1, ..
    int32_t rows;
    bool aligned;       // rows start at multiples of 16 bytes and k % 8 == 0
    const float* norm;  // float [k], or null; only with `aligned`
    float norm_eps;
};

// Elements between rows in shared memory, such that eight rows of a fragment lie in different banks.
TL_HOST_DEVICE constexpr int32_t input_pitch(int32_t units) { return units * kUnit + 8; }
// Vectors of 8 elements whose squares a warp sums at a time.
TL_HOST_DEVICE constexpr int32_t input_blocks(int32_t units) { return units * (kUnit / 8) / 32 + units % 2; }
// Shared bytes of x and of the sums of its squares.
TL_HOST_DEVICE constexpr int32_t input_bytes(int32_t units, int32_t rows, bool normed) {
    return rows * (input_pitch(units) * 2 + (normed ? (input_blocks(units) + 3) / 4 * 16 : 0));
}

template <typename T>
union Vector8 {
    uint4 whole;
    T element[8];
};

// Fills x: T [rows, input_pitch(units)], zero from k on. `norm`: the norm's weights in shared memory, or null. Row sums
// are taken as in norm.cu for k up to 8192: lanes, then blocks of 256 elements in ascending order. x is read past L1:
// the predecessor may have written it while this kernel already ran. All threads call; ends with a barrier.
template <typename T, int kThreads>
__device__ void load_input(const DecodeInput& in, int32_t k, int32_t units, const float* norm, unsigned char* shared) {
    constexpr int kWarps = kThreads / kWarpSize;
    constexpr int kHeld = 3;  // loads in flight
    const int32_t vectors = units * (kUnit / 8), pitch = input_pitch(units) / 8, blocks = input_blocks(units);
    const int32_t sums_pitch = (blocks + 3) / 4 * 4;
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    uint4* target = reinterpret_cast<uint4*>(shared);
    float* sums = reinterpret_cast<float*>(target + in.rows * pitch);
#pragma unroll 1
    for (int32_t r = 0; r < in.rows; ++r) {
        const T* row = static_cast<const T*>(in.x) + (in.row_index == nullptr ? r : in.row_index[r]) * in.row_stride;
        if (!in.aligned) {
            T* elements = reinterpret_cast<T*>(target + r * pitch);
            for (int32_t i = threadIdx.x; i < units * kUnit; i += kThreads)
                elements[i] = i < k ? __ldcg(row + i) : T(0.0f);
            continue;
        }
#pragma unroll 1
        for (int32_t first = warp; first < blocks; first += kHeld * kWarps) {
            Vector8<T> held[kHeld];
#pragma unroll
            for (int i = 0; i < kHeld; ++i) {
                const int32_t vector = (first + i * kWarps) * kWarpSize + lane;
                held[i].whole = vector * 8 < k ? __ldcg(reinterpret_cast<const uint4*>(row) + vector) : uint4{};
            }
#pragma unroll
            for (int i = 0; i < kHeld; ++i) {
                const int32_t block = first + i * kWarps, vector = block * kWarpSize + lane;
                if (vector < vectors) target[r * pitch + vector] = held[i].whole;
                if (norm == nullptr || block >= blocks) continue;
                float sum = 0;
#pragma unroll
                for (int e = 0; e < 8; ++e) sum = fmaf(widen(held[i].element[e]), widen(held[i].element[e]), sum);
                sum = warp_reduce(sum, Sum{});
                if (lane == 0) sums[r * sums_pitch + block] = sum;
            }
        }
        if (norm != nullptr && threadIdx.x < sums_pitch - blocks) sums[r * sums_pitch + blocks + threadIdx.x] = 0;
    }
    __syncthreads();
    if (norm == nullptr) return;
#pragma unroll 1
    for (int32_t r = 0; r < in.rows; ++r) {
        float sum = 0;
#pragma unroll 4
        for (int32_t block = 0; block < sums_pitch; block += 4) {
            const float4 part = *reinterpret_cast<const float4*>(sums + r * sums_pitch + block);
            sum = sum + part.x + part.y + part.z + part.w;
        }
        const float factor = rsqrtf(sum / static_cast<float>(k) + in.norm_eps);
        for (int32_t vector = threadIdx.x; vector * 8 < k; vector += kThreads) {
            Vector8<T> value;
            value.whole = target[r * pitch + vector];
            const float4* weights = reinterpret_cast<const float4*>(norm) + 2 * vector;
            const float4 low = weights[0], high = weights[1];
            const float weight[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (int e = 0; e < 8; ++e) value.element[e] = round_to<T>(widen(value.element[e]) * factor * weight[e]);
            target[r * pitch + vector] = value.whole;
        }
    }
    __syncthreads();
}

}  // namespace tinyllm
