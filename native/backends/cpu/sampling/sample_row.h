// Drawing one token from one row of scores: the filters, then the Gumbel-max draw of ops/philox.h.
#pragma once

#include <cstdint>

#include "backends/cpu/simd/kernels.h"
#include "ops/ops.h"

namespace tinyllm::cpu {

// Tokens rank by descending score, equal scores by ascending id. Each filter keeps the tokens up to some rank, so all
// together are one cutoff, and nothing is ever sorted.
struct Cutoff {
    float score;      // tokens above it are kept,
    int64_t last_id;  // of those that equal it the ones up to here

    bool keeps(float token_score, int64_t id) const {
        return token_score > score || (token_score == score && id <= last_id);
    }
};

// A NaN counts as -infinity.
class RowSampler {
public:
    // scores: [vocab_size], logits after the repetition penalty; likeliest: index of the largest, which is finite;
    // work: scratch [vocab_size]. The temperature is at least FLT_MIN.
    RowSampler(const LogitKernels& kernels, const SampleParams& params, const float* scores, int64_t vocab_size,
               int64_t likeliest, float* work)
        : kernels_(kernels),
          params_(params),
          scores_(scores),
          vocab_size_(vocab_size),
          likeliest_(likeliest),
          max_(scores[likeliest]),
          work_(work) {}

    int64_t draw() const;
    // Of top-k, then top-p, then min-p.
    Cutoff cutoff() const;

private:
    Cutoff top_k() const;
    Cutoff top_p(const Cutoff& before) const;
    Cutoff cutoff_at(float score, int64_t count) const;
    double weight(const float* first, int64_t count) const;
    int64_t gather(const Cutoff& cutoff) const;
    float noisy(int64_t token) const;

    const LogitKernels& kernels_;
    const SampleParams& params_;
    const float* scores_;
    const int64_t vocab_size_;
    const int64_t likeliest_;
    const float max_;
    float* work_;
};

}  // namespace tinyllm::cpu
