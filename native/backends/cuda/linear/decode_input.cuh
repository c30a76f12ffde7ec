// x of a decode linear for few tokens: copied to shared memory as a whole, normalised on the way where wanted.
#pragma once

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/linear/decode_order.h"

namespace tinyllm::cuda {

struct DecodeInput {
    const void* x;             // T [.., k]
    int64_t row_stride;        // elements
    const int32_t* row_index;  // row of x for each token, or null: 0, 1, ..; only with `norm`
    int32_t tokens;
    bool aligned;       // rows start at multiples of 16 bytes and k % 8 == 0
    const float* norm;  // float [k], or null
    float norm_eps;
};

// Elements from token to token in shared memory, such that the eight tokens of a fragment lie in different banks.
TL_HOST_DEVICE constexpr int32_t input_pitch(int32_t k_blocks) { return k_blocks * kKBlock + 8; }
// Blocks of 256 elements per token; places for their sums of squares.
TL_HOST_DEVICE constexpr int32_t input_blocks(int32_t k_blocks) { return (k_blocks + 1) / 2; }
TL_HOST_DEVICE constexpr int32_t input_sums(int32_t k_blocks) { return (input_blocks(k_blocks) + 3) / 4 * 4; }
// Shared bytes of x and of these sums.
TL_HOST_DEVICE constexpr int32_t input_bytes(int32_t k_blocks, int32_t tokens, bool normed) {
    return tokens * (input_pitch(k_blocks) * 2 + (normed ? input_sums(k_blocks) * 4 : 0));
}

template <typename T>
union Vector8 {
    uint4 whole;
    T element[8];
};

// A barrier of the block's first kThreads threads, all of which call. Barrier 0 is the one of all threads.
template <int kThreads>
__device__ void first_threads_barrier() {
    asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
}

// Fills `target` T [tokens, input_pitch(k_blocks)] with x as it is, zero from k on. x is read past L1: the predecessor
// may have written it while this kernel already ran. The block's first kThreads threads call; ends with their barrier.
template <typename T, int kThreads>
__device__ void load_input(const DecodeInput& in, int32_t k, int32_t k_blocks, unsigned char* target) {
    constexpr int kHeld = 4;  // loads in flight
    const int32_t vectors = k_blocks * (kKBlock / 8);
#pragma unroll 1
    for (int32_t token = 0; token < in.tokens; ++token) {
        const T* source = static_cast<const T*>(in.x) + token * in.row_stride;
        T* out = reinterpret_cast<T*>(target) + token * input_pitch(k_blocks);
        if (in.aligned) {
#pragma unroll 1
            for (int32_t first = threadIdx.x; first < vectors; first += kHeld * kThreads) {
                uint4 held[kHeld];
#pragma unroll
                for (int i = 0; i < kHeld; ++i) {
                    const int32_t vector = first + i * kThreads;
                    held[i] = vector * 8 < k ? __ldcg(reinterpret_cast<const uint4*>(source) + vector) : uint4{};
                }
#pragma unroll
                for (int i = 0; i < kHeld; ++i) {
                    const int32_t vector = first + i * kThreads;
                    if (vector < vectors) reinterpret_cast<uint4*>(out)[vector] = held[i];
                }
            }
        } else {
#pragma unroll 1
            for (int32_t i = threadIdx.x; i < k_blocks * kKBlock; i += kThreads)
                out[i] = i < k ? __ldcg(source + i) : T(0.0f);
        }
    }
    first_threads_barrier<kThreads>();
}

// The same with RMSNorm, for aligned x of up to kMaxNormed elements per token. The sum of squares is taken in the order
// of norm.cu: a lane's vector, the lanes of a warp, blocks of 256 elements in ascending order.
template <typename T, int kThreads>
class NormedInput {
public:
    static constexpr int kHeld = 2;  // vectors per thread and token
    static constexpr int32_t kMaxNormed = kHeld * kThreads * 8;

    // Reads the norm's weights, before x is there.
    __device__ NormedInput(const DecodeInput& in, int32_t k) {
#pragma unroll
        for (int i = 0; i < kHeld; ++i) {
            const int32_t vector = threadIdx.x + i * kThreads;
            if (vector * 8 >= k) break;
            const float4* source = reinterpret_cast<const float4*>(in.norm) + 2 * vector;
            *reinterpret_cast<float4*>(weight_[i]) = source[0];
            *reinterpret_cast<float4*>(weight_[i] + 4) = source[1];
        }
    }

    __device__ void load(const DecodeInput& in, int32_t k, int32_t k_blocks, unsigned char* target) const {
        const int32_t vectors = k_blocks * (kKBlock / 8), pitch = input_pitch(k_blocks) / 8,
                      blocks = input_blocks(k_blocks);
        uint4* x = reinterpret_cast<uint4*>(target);
        float* sums = reinterpret_cast<float*>(x + in.tokens * pitch);
#pragma unroll 1
        for (int32_t token = 0; token < in.tokens; ++token) {
            const int64_t x_row = in.row_index == nullptr ? token : in.row_index[token];
            const T* source = static_cast<const T*>(in.x) + x_row * in.row_stride;
            Vector8<T> held[kHeld];
#pragma unroll
            for (int i = 0; i < kHeld; ++i) {
                const int32_t vector = threadIdx.x + i * kThreads;
                held[i].whole = vector * 8 < k ? __ldcg(reinterpret_cast<const uint4*>(source) + vector) : uint4{};
            }
#pragma unroll
            for (int i = 0; i < kHeld; ++i) {
                const int32_t vector = threadIdx.x + i * kThreads, block = vector / kWarpSize;
                if (block >= blocks) break;
                if (vector < vectors) x[token * pitch + vector] = held[i].whole;
                float sum = 0;
#pragma unroll
                for (int e = 0; e < 8; ++e) sum = fmaf(widen(held[i].element[e]), widen(held[i].element[e]), sum);
                sum = warp_reduce(sum, Sum{});
                if (threadIdx.x % kWarpSize == 0) sums[token * input_sums(k_blocks) + block] = sum;
            }
        }
        first_threads_barrier<kThreads>();
#pragma unroll 1
        for (int32_t token = 0; token < in.tokens; ++token) {
            const float factor =
                rsqrtf(row_sum(sums + token * input_sums(k_blocks), blocks) / static_cast<float>(k) + in.norm_eps);
#pragma unroll
            for (int i = 0; i < kHeld; ++i) {
                const int32_t vector = threadIdx.x + i * kThreads;
                if (vector * 8 >= k) break;
                Vector8<T> value;
                value.whole = x[token * pitch + vector];
#pragma unroll
                for (int e = 0; e < 8; ++e)
                    value.element[e] = round_to<T>(widen(value.element[e]) * factor * weight_[i][e]);
                x[token * pitch + vector] = value.whole;
            }
        }
        first_threads_barrier<kThreads>();
    }

private:
    static __device__ float row_sum(const float* sums, int32_t blocks) {
        float sum = 0;
#pragma unroll 2
        for (int32_t block = 0; block < blocks; block += 4) {
            const float4 part = *reinterpret_cast<const float4*>(sums + block);
            sum += part.x;
            if (block + 1 < blocks) sum += part.y;
            if (block + 2 < blocks) sum += part.z;
            if (block + 3 < blocks) sum += part.w;
        }
        return sum;
    }

    alignas(16) float weight_[kHeld][8];
};

}  // namespace tinyllm::cuda
