// What the sampler's kernels keep in scratch memory. No CUDA headers: the planner needs its size too.
#pragma once

#include <cstdint>

namespace tinyllm::cuda {

// Blocks that share a row in the passes over the whole vocabulary: enough that one row of 128k tokens spreads its loads
// over a quarter of the SMs, few enough that one warp of the last block merges the results of all.
constexpr int kSampleBlocks = 32;

// The filters' histogram counts tokens by how far their score lies below the largest; bins reach kBins / kBinsPerUnit
// = 32 below it, a mass of 1e-14. Tokens near the cutoff are sorted, at most kCandidates of them.
constexpr int kBins = 2048;
constexpr float kBinsPerUnit = 64;
constexpr int kCandidates = 4096;

// What the kernels of one sample op hand to each other about a row.
struct SampleScratch {
    uint64_t cutoff;               // tokens of a lower rank are filtered out; 0: none
    uint64_t best[kSampleBlocks];  // highest rank each block found
    struct Partial {
        float largest_score;
        float largest_logit;
        float logit_sum;               // sum of exp(logit - largest_logit)
    } partial[kSampleBlocks];          // of each block's share of the row
    float mass[kSampleBlocks];         // sums of exp(score - largest score) over each block's share
    float weight[kSampleBlocks];       // the same over tokens above the bracket, of 1 or of mass
    int32_t first_bin, last_bin;       // the bracket: bins among which the cutoff lies; last_bin kBins: not found
    uint32_t num_candidates;           // tokens in it, of which `candidates` keeps at most kCandidates
    uint32_t histogram[kBins];         // tokens per bin
    uint64_t candidates[kCandidates];  // ranks
};

}  // namespace tinyllm::cuda
