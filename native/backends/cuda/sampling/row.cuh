// One row of logits as the sampler's kernels see it, and the order of its tokens. Used by sample.cu,
// sampling/filter.cu.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/runtime/scratch.h"
#include "backends/cuda/sampling/scratch.h"
#include "ops/ops.h"

namespace tinyllm::cuda {

static_assert(kSampleBlocks <= kWarpSize);

// Rank: tokens in the order of value, equal values in the order of descending id, as one integer: the highest rank is
// the highest value at the lowest id. The id takes the low kTokenBits.
constexpr int kTokenBits = 24;
constexpr int kRankBits = 32 + kTokenBits;
constexpr uint32_t kTokenMask = (1u << kTokenBits) - 1;

__device__ inline uint64_t rank_of(float value, int32_t token) {
    const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 becomes +0: they are equal
    const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t{ascending} << kTokenBits) | (kTokenMask - static_cast<uint32_t>(token));
}

__device__ inline int32_t token_of(uint64_t rank) {
    return static_cast<int32_t>(kTokenMask - (static_cast<uint32_t>(rank) & kTokenMask));
}

__device__ inline float value_of(uint64_t rank) {
    const uint32_t ascending = static_cast<uint32_t>(rank >> kTokenBits);
    return __uint_as_float(ascending & 0x80000000u ? ascending & 0x7fffffffu : ~ascending);
}

// Tokens are visited in groups of as many as share a Philox counter: one 16-byte load, one word of `seen`.
constexpr int kGroup = 4;
using TokenValues = Vector<float, kGroup>;

struct SampleRow {
    const float* logits;   // [vocab_size], 16-byte aligned if vocab_size is a multiple of kGroup
    const uint32_t* seen;  // bits [vocab_size], null where no penalty applies
    int32_t vocab_size;
    SampleParams params;

    __device__ SampleRow(const float* all_logits, const uint32_t* all_seen, int32_t vocab_size,
                         const SampleParams& params, int32_t row)
        : logits(all_logits + int64_t{row} * vocab_size), seen(nullptr), vocab_size(vocab_size), params(params) {
        if (all_seen != nullptr && params.repetition_penalty != 1.0f && params.slot >= 0)
            seen = all_seen + int64_t{params.slot} * ((vocab_size + 31) / 32);
    }

    __device__ int32_t num_groups() const { return (vocab_size + kGroup - 1) / kGroup; }

    // Logits of the tokens from group * kGroup on; -inf beyond the vocabulary.
    __device__ TokenValues raw(int32_t group) const {
        const int32_t first = group * kGroup;
        if (vocab_size % kGroup == 0) return *reinterpret_cast<const TokenValues*>(logits + first);
        TokenValues values;
        for (int i = 0; i < kGroup; ++i) values.element[i] = first + i < vocab_size ? logits[first + i] : -INFINITY;
        return values;
    }

    // The same after the repetition penalty (Keskar et al. 2019).
    __device__ TokenValues penalized(int32_t group) const {
        TokenValues values = raw(group);
        if (seen == nullptr) return values;
        const uint32_t bits = seen[group * kGroup / 32] >> (group * kGroup % 32);
        for (int i = 0; i < kGroup; ++i) {
            float& value = values.element[i];
            if ((bits >> i & 1) != 0)
                value = value > 0 ? value / params.repetition_penalty : value * params.repetition_penalty;
        }
        return values;
    }

    // What tokens compete with: the penalised logit over the temperature. Ascending in `value`.
    __device__ float score(float value) const { return params.temperature > 0 ? value / params.temperature : value; }

    // Calls body(token, score) for the tokens of every `step`-th group from `first` on.
    template <typename Body>
    __device__ void for_each_score(int32_t first, int32_t step, Body body) const {
#pragma unroll 4
        for (int32_t group = first; group < num_groups(); group += step) {
            const TokenValues values = penalized(group);
            for (int i = 0; i < kGroup; ++i) body(group * kGroup + i, score(values.element[i]));
        }
    }

    __device__ bool has_top_k() const {
        return params.temperature > 0 && params.top_k > 0 && params.top_k < vocab_size;
    }
    __device__ bool has_top_p() const { return params.temperature > 0 && params.top_p < 1.0f; }
};

// True, in all threads, in the block that is the last of the row's kSampleBlocks to get here: it then sees what the
// others wrote before. The counter is zero before the first and after the last. All threads of the block call.
__device__ inline bool is_last_of_row(uint32_t* counter) {
    __shared__ bool is_last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = atomicAdd(counter, 1u) == kSampleBlocks - 1;
        if (is_last) *counter = 0;
    }
    __syncthreads();
    if (is_last) __threadfence();
    return is_last;
}

// Reduction over the values that the row's blocks left, the same in every lane. A whole warp calls.
template <typename T, typename Op>
__device__ inline T reduce_parts(T lane_value, T neutral, Op op) {
    return warp_reduce(threadIdx.x % kWarpSize < kSampleBlocks ? lane_value : neutral, op);
}

// Highest score of a row. A whole warp calls, after the kernel that computes the parts.
__device__ inline float largest_score(const SampleScratch& scratch) {
    const int part = min(static_cast<int>(threadIdx.x % kWarpSize), kSampleBlocks - 1);
    return reduce_parts(scratch.partial[part].largest_score, -INFINITY, Max{});
}

// Enqueues the computation of SampleScratch::cutoff for rows whose `partial` and zeroed `histogram` are complete.
// counters: one per row, zero before and after.
void sample_filter(cudaStream_t cuda_stream, const StepBatch& batch, int32_t vocab_size, const uint32_t* seen,
                   const float* logits, SampleScratch* scratch, uint32_t* counters);

}  // namespace tinyllm::cuda
