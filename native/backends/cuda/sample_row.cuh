// One row of logits as the sampler's kernels see it, and the order of its tokens. Used by sample.cu, sample_cutoff.cu.
#pragma once

#include <cstdint>

#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/scratch.h"
#include "ops/ops.h"

namespace tinyllm {

// Blocks that share a row in the passes over the whole vocabulary: enough that one row of 128k tokens keeps its loads
// in flight on a quarter of the chip, few enough that the last of them joins the others in one warp.
constexpr int kSampleBlocks = 32;
static_assert(kSampleBlocks <= kWarpSize);

// What the kernels of one sample op hand to each other about a row.
struct SampleScratch {
    uint64_t cutoff;               // tokens of a lower rank are filtered out; 0: none
    uint64_t best[kSampleBlocks];  // highest rank each block found
    struct Partial {
        float largest_score;
        float largest_logit;
        float logit_sum;       // sum of exp(logit - largest_logit)
    } partial[kSampleBlocks];  // of each block's share of the row
};

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

struct SampleRow {
    const float* logits;   // [vocab_size]
    const uint32_t* seen;  // bits [vocab_size], null where no penalty applies
    int32_t vocab_size;
    SampleParams params;

    __device__ SampleRow(const float* all_logits, const uint32_t* all_seen, int32_t vocab_size,
                         const SampleParams& params, int32_t row)
        : logits(all_logits + int64_t{row} * vocab_size), seen(nullptr), vocab_size(vocab_size), params(params) {
        if (all_seen != nullptr && params.repetition_penalty != 1.0f && params.slot >= 0)
            seen = all_seen + int64_t{params.slot} * ((vocab_size + 31) / 32);
    }

    // Logit after repetition penalty (Keskar et al. 2019) and temperature.
    __device__ float score(int32_t token) const {
        float value = logits[token];
        if (seen != nullptr && (seen[token / 32] >> (token % 32) & 1) != 0)
            value = value > 0 ? value / params.repetition_penalty : value * params.repetition_penalty;
        return params.temperature > 0 ? value / params.temperature : value;
    }

    __device__ bool filtered() const {
        const bool top_k = params.top_k > 0 && params.top_k < vocab_size;
        return params.temperature > 0 && (top_k || params.top_p < 1.0f || params.min_p > 0.0f);
    }
};

// Highest score of a row from the blocks' parts. All lanes of a warp call and get the result.
__device__ inline float largest_score(const SampleScratch& scratch) {
    const int lane = threadIdx.x % kWarpSize;
    return warp_reduce(lane < kSampleBlocks ? scratch.partial[lane].largest_score : -INFINITY, Max{});
}

// Enqueues the computation of SampleScratch::cutoff for rows whose SampleScratch::partial is complete.
void sample_cutoff_cuda(cudaStream_t cuda_stream, const StepBatch& batch, int32_t vocab_size, const uint32_t* seen,
                        const float* logits, SampleScratch* scratch);

}  // namespace tinyllm
