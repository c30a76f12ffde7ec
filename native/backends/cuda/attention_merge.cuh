// Joining softmaxes over parts of a context: with m the largest score of a part (times log2 e), l the sum of
// 2^(score - m) and a the sum of 2^(score - m) v, the whole is sum_i 2^(m_i - M) a_i / sum_i 2^(m_i - M) l_i, M = max m_i.
// All sums run in an order that the number of parts fixes.
#pragma once

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/device/transpose.cuh"

namespace tinyllm {

struct PartStats {
    float largest;  // m; -infinity for an empty part
    float sum;      // l
};

__device__ inline float4 add_scaled(float4 a, float factor, float4 b) {
    return {a.x + factor * b.x, a.y + factor * b.y, a.z + factor * b.z, a.w + factor * b.w};
}

// Four neighbours, 8-byte aligned, in one store.
template <typename T>
__device__ void store_four(T* target, float4 value) {
    *reinterpret_cast<uint2*>(target) = {pack_pair<T>(value.x, value.y), pack_pair<T>(value.z, value.w)};
}

// The parts that the warps of a block hold in shared memory, of `heads` heads each.
template <int kWarps, int kHeads, int kHeadDim>
struct WarpParts {
    static constexpr int kPitch = kHeadDim + 4;  // makes the writes of a warp's accumulators free of bank conflicts
    static constexpr int kVectors = kHeadDim / 4;

    const float* values;  // of warp w: values + w * stride, [heads][kPitch]
    int stride;
    const PartStats (*stats)[kHeads];  // [kWarps]

    // All warps of one head joined: emit(head, vector, a, stats) for every group of four elements, by all threads.
    template <typename Emit>
    __device__ void join(int heads, Emit&& emit) const {
        for (int item = threadIdx.x; item < heads * kVectors; item += kWarps * kWarpSize) {
            const int head = item / kVectors, vector = item % kVectors;
            PartStats whole{-INFINITY, 0};
#pragma unroll
            for (int w = 0; w < kWarps; ++w) whole.largest = fmaxf(whole.largest, stats[w][head].largest);
            float4 total = {};
#pragma unroll
            for (int w = 0; w < kWarps; ++w) {
                const float factor = exp2_fast(stats[w][head].largest - whole.largest);
                whole.sum += factor * stats[w][head].sum;
                total = add_scaled(
                    total, factor, *reinterpret_cast<const float4*>(values + w * stride + head * kPitch + vector * 4));
            }
            emit(head, vector, total, whole);
        }
    }
};

// The parts of one row in global memory: a [head][split][kHeadDim] and stats [head][split], `pitch` splits a head.
template <int kHeadDim>
struct SplitParts {
    static constexpr int kVectors = kHeadDim / 4;

    float4* values;
    PartStats* stats;
    int32_t pitch;

    __device__ void store(int head, int split, int vector, float4 value, PartStats of_split) const {
        const int64_t at = int64_t{head} * pitch + split;
        values[at * kVectors + vector] = value;
        if (vector == 0) stats[at] = of_split;
    }

    // Joins `count` parts of `heads` heads from `first_head` on and stores the result to out + head * kHeadDim.
    // PRECOND: all threads of a block of kWarps warps call. shared: kMaxCount * heads + kWarps * heads * kHeadDim floats.
    template <int kWarps, int kMaxCount, typename T>
    __device__ void join(int first_head, int heads, int count, float* shared, T* out) const {
        const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
        float* factors = shared;  // [heads][kMaxCount]
        for (int head = warp; head < heads; head += kWarps) {
            const PartStats* of_head = stats + int64_t{first_head + head} * pitch;
            PartStats mine[kMaxCount / kWarpSize];
            float largest = -INFINITY;
#pragma unroll
            for (int i = 0; i < kMaxCount / kWarpSize; ++i) {
                const int split = lane + i * kWarpSize;
                mine[i] = {-INFINITY, 0};
                if (split < count) {
                    const float2 loaded = __ldcg(reinterpret_cast<const float2*>(of_head + split));
                    mine[i] = {loaded.x, loaded.y};
                }
                largest = fmaxf(largest, mine[i].largest);
            }
            largest = warp_reduce(largest, Max{});
            float sum = 0;
#pragma unroll
            for (int i = 0; i < kMaxCount / kWarpSize; ++i) {
                mine[i].largest = exp2_fast(mine[i].largest - largest);
                sum += mine[i].largest * mine[i].sum;
            }
            sum = warp_reduce(sum, Sum{});
#pragma unroll
            for (int i = 0; i < kMaxCount / kWarpSize; ++i)
                factors[head * kMaxCount + lane + i * kWarpSize] = mine[i].largest / sum;
        }
        __syncthreads();
        // Warp w adds the splits w, w + kWarps, ...; then the warps' sums are added.
        float4* sums = reinterpret_cast<float4*>(shared + heads * kMaxCount);  // [kWarps][heads * kVectors]
        for (int item = lane; item < heads * kVectors; item += kWarpSize) {
            const int head = item / kVectors, vector = item % kVectors;
            const float4* source = values + int64_t{first_head + head} * pitch * kVectors + vector;
            float4 total = {};
#pragma unroll 8
            for (int split = warp; split < count; split += kWarps)
                total = add_scaled(total, factors[head * kMaxCount + split], __ldcg(source + split * kVectors));
            sums[warp * heads * kVectors + item] = total;
        }
        __syncthreads();
        for (int item = threadIdx.x; item < heads * kVectors; item += kWarps * kWarpSize) {
            float4 total = sums[item];
#pragma unroll
            for (int w = 1; w < kWarps; ++w) total = add_scaled(total, 1.0f, sums[w * heads * kVectors + item]);
            store_four(out + item * 4, total);
        }
    }
};

}  // namespace tinyllm
