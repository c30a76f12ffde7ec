// Merges softmaxes over splits of a context: with m the largest score of a split (times log2 e), l the sum of
// 2^(score - m) and a the sum of 2^(score - m) v, the whole is sum_i 2^(m_i - M) a_i / sum_i 2^(m_i - M) l_i, M = max
// m_i. The number of splits fixes the order of all sums.
#pragma once

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/exp2.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/device/transpose.cuh"

namespace tinyllm::cuda {

struct SoftmaxStats {
    float largest;  // m; -infinity for an empty split
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

// The results of the warps of a block in shared memory, of `heads` heads each.
template <int kWarps, int kHeads, int kHeadDim>
struct WarpResults {
    static constexpr int kPitch = kHeadDim + 4;  // makes the writes of a warp's accumulators free of bank conflicts
    static constexpr int kVectors = kHeadDim / 4;

    const float* values;  // of warp w: values + w * stride, [heads][kPitch]
    int stride;
    const SoftmaxStats (*stats)[kHeads];  // [kWarps]

    // Merges the warps: emit(head, vector, a, stats) for every four elements of every head, by all threads.
    template <typename Emit>
    __device__ void merge(int heads, Emit&& emit) const {
        for (int item = threadIdx.x; item < heads * kVectors; item += kWarps * kWarpSize) {
            const int head = item / kVectors, vector = item % kVectors;
            SoftmaxStats whole{-INFINITY, 0};
#pragma unroll
            for (int w = 0; w < kWarps; ++w) whole.largest = fmaxf(whole.largest, stats[w][head].largest);
            float4 total = {};
#pragma unroll
            for (int w = 0; w < kWarps; ++w) {
                const float factor = exp2_fast(stats[w][head].largest - whole.largest);
                whole.sum += factor * stats[w][head].sum;
                total = add_scaled(total, factor,
                                   *reinterpret_cast<const float4*>(values + w * stride + head * kPitch + vector * 4));
            }
            emit(head, vector, total, whole);
        }
    }
};

// The results of the splits of one row in global memory: a [head][split][kHeadDim] and stats [head][split], `pitch`
// splits per head.
template <int kHeadDim>
struct SplitResults {
    static constexpr int kVectors = kHeadDim / 4;

    float4* values;
    SoftmaxStats* stats;
    int32_t pitch;

    __device__ void store(int head, int split, int vector, float4 value, SoftmaxStats of_split) const {
        const int64_t at = int64_t{head} * pitch + split;
        values[at * kVectors + vector] = value;
        if (vector == 0) stats[at] = of_split;
    }

    // Floats of shared memory for merge().
    static constexpr int shared_floats(int warps, int heads) { return (kWarpSize + warps * kHeadDim) * heads; }

    // Merges `count` splits, at most kWarpSize, of `heads` heads from `first_head` on and stores the result to
    // out + head * kHeadDim. PRECOND: all threads of a block of kWarps warps call.
    template <int kWarps, typename T>
    __device__ void merge(int first_head, int heads, int count, float* shared, T* out) const {
        constexpr int kRounds = kWarpSize / kWarps, kTogether = 2;  // loads in flight: all splits of so many items
        const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
        const int items = heads * kVectors;
        float* factors = shared;                                               // [heads][kWarpSize]
        float4* sums = reinterpret_cast<float4*>(shared + heads * kWarpSize);  // [kWarps][items]
        // Warp w adds the splits w, w + kWarps, ...; the loads of the first values run while the factors are computed.
        for (int first = lane; first < items || first == lane; first += kTogether * kWarpSize) {
            float4 value[kTogether][kRounds];
#pragma unroll
            for (int i = 0; i < kTogether; ++i)
#pragma unroll
                for (int round = 0; round < kRounds; ++round) {
                    const int item = first + i * kWarpSize, split = warp + round * kWarps;
                    const int head = item / kVectors, vector = item % kVectors;
                    value[i][round] = {};
                    if (item < items && split < count)
                        value[i][round] =
                            __ldcg(values + (int64_t{first_head + head} * pitch + split) * kVectors + vector);
                }
            if (first == lane) {
                for (int head = warp; head < heads; head += kWarps)
                    factors[head * kWarpSize + lane] =
                        split_factor(stats + int64_t{first_head + head} * pitch, count, lane);
                __syncthreads();
            }
#pragma unroll
            for (int i = 0; i < kTogether; ++i) {
                const int item = first + i * kWarpSize;
                if (item >= items) continue;
                float4 total = {};
#pragma unroll
                for (int round = 0; round < kRounds; ++round)
                    total = add_scaled(total, factors[item / kVectors * kWarpSize + warp + round * kWarps],
                                       value[i][round]);
                sums[warp * items + item] = total;
            }
        }
        __syncthreads();
        for (int item = threadIdx.x; item < items; item += kWarps * kWarpSize) {
            float4 total = sums[item];
#pragma unroll
            for (int w = 1; w < kWarps; ++w) total = add_scaled(total, 1.0f, sums[w * items + item]);
            store_four(out + item * 4, total);
        }
    }

private:
    // 2^(m_lane - M) / sum of all: what the lane's split is multiplied by; 0 beyond `count`.
    static __device__ float split_factor(const SoftmaxStats* of_head, int count, int lane) {
        float2 mine{-INFINITY, 0};
        if (lane < count) mine = __ldcg(reinterpret_cast<const float2*>(of_head + lane));
        const float factor = exp2_fast(mine.x - warp_reduce(mine.x, Max{}));
        return factor / warp_reduce(factor * mine.y, Sum{});
    }
};

}  // namespace tinyllm::cuda
