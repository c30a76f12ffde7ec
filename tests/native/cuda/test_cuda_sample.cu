// The filters of the GPU's sampler where their algorithm changes: few candidates, many, and too many to collect
// (native/backends/cuda/sampling/filter.cu). tests/python/test_ops_sample.py compares the op with its definition.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "backends/cuda/cuda_backend.h"
#include "config/engine_config.h"
#include "cuda/cuda_test.h"
#include "ops/model_shapes.h"

namespace tinyllm::test {

using namespace cuda;

namespace {

constexpr int32_t kRows = 64;

struct Filters {
    int32_t top_k;  // 0: off
    float top_p;    // 1: off
};

// Tokens that kRows draws give from the same logits, in ascending order. Logits must fall with the token id, so that
// the filters keep the tokens below some bound.
std::vector<int32_t> draw(const std::vector<float>& logits, const Filters& filters) {
    MemoryTracker tracker;
    const std::unique_ptr<Backend> backend = cuda::make_backend(0);
    const auto vocab_size = static_cast<int32_t>(logits.size());
    const auto allocate = [&](size_t bytes) { return backend->allocate(tracker, Component::Workspace, bytes, "test"); };
    const auto scratch_bytes =
        static_cast<size_t>(cuda::scratch_bytes({{}, {}, vocab_size}, {.max_batch_size = kRows}));
    const AllocationPtr scratch = allocate(scratch_bytes), params = allocate(kRows * sizeof(SampleParams)),
                        rows = allocate(kRows * logits.size() * sizeof(float)),
                        sampled = allocate(kRows * sizeof(SampledToken));
    backend->bind_scratch(scratch->data(), scratch_bytes);
    std::vector<SampleParams> all_params;
    for (int32_t row = 0; row < kRows; ++row) {
        SampleParams settings;
        settings.seed = 42;
        settings.temperature = 1.0f;
        settings.top_p = filters.top_p;
        settings.top_k = filters.top_k;
        settings.position = row;
        settings.slot = -1;
        all_params.push_back(settings);
        float* target = static_cast<float*>(rows->data()) + row * logits.size();
        backend->upload(target, logits.data(), logits.size() * sizeof(float));
    }
    backend->upload(params->data(), all_params.data(), kRows * sizeof(SampleParams));
    StepBatch batch;
    batch.num_logits = kRows;
    batch.sample_params = static_cast<const SampleParams*>(params->data());
    backend->sample(batch, vocab_size, nullptr, static_cast<float*>(rows->data()),
                    static_cast<SampledToken*>(sampled->data()));
    std::vector<SampledToken> out(kRows);
    backend->download(out.data(), sampled->data(), kRows * sizeof(SampledToken));
    std::vector<int32_t> tokens;
    for (const SampledToken& token : out) tokens.push_back(token.token_id);
    std::sort(tokens.begin(), tokens.end());
    return tokens;
}

std::vector<float> falling_logits(int32_t vocab_size, float step) {
    std::vector<float> logits(vocab_size);
    for (int32_t i = 0; i < vocab_size; ++i) logits[i] = -step * static_cast<float>(i);
    return logits;
}

// Number of tokens that the filters keep, in double precision.
int32_t kept(const std::vector<float>& logits, const Filters& filters) {
    const auto vocab_size = static_cast<int32_t>(logits.size());
    const int32_t after_top_k = filters.top_k > 0 ? std::min(filters.top_k, vocab_size) : vocab_size;
    double whole = 0, sum = 0;
    for (int32_t i = 0; i < after_top_k; ++i) whole += std::exp(static_cast<double>(logits[i]));
    for (int32_t i = 0; i < after_top_k; ++i) {
        if (sum >= static_cast<double>(filters.top_p) * whole) return i;
        sum += std::exp(static_cast<double>(logits[i]));
    }
    return after_top_k;
}

void check_bound(const std::vector<float>& logits, const Filters& filters) {
    const std::vector<int32_t> tokens = draw(logits, filters);
    const int32_t bound = kept(logits, filters);
    // Float sums may put the border of top-p one token in a thousand away.
    const int32_t slack = filters.top_p < 1 ? bound / 1000 + 1 : 0;
    CHECK(tokens.front() >= 0);
    CHECK(tokens.back() < bound + slack);
    // Half of the kept tokens hold at least a quarter of the mass here: 64 draws all miss them once in 10^8 times.
    CHECK(tokens.back() >= bound / 2);
}

}  // namespace

TEST(few_candidates) {
    const std::vector<float> logits = falling_logits(20000, 1e-2f);
    check_bound(logits, {40, 1.0f});
    check_bound(logits, {0, 0.5f});
    check_bound(logits, {40, 0.7f});
}

TEST(candidates_that_are_sorted) {
    // Within 3000 tokens the logits fall by 0.3: top-k with top-p collects them all.
    check_bound(falling_logits(20000, 1e-4f), {3000, 0.9f});
}

TEST(too_many_candidates_are_bisected) {
    const std::vector<float> equal(20001, 1.0f);  // ties: the lowest ids are kept
    check_bound(equal, {7, 1.0f});
    check_bound(equal, {6000, 1.0f});
    check_bound(equal, {0, 0.25f});
    check_bound(equal, {6000, 0.5f});
}

TEST(scores_far_below_the_bins) {
    std::vector<float> logits(5000, -1000.0f);
    logits[0] = 0;
    const std::vector<int32_t> tokens = draw(logits, {100, 1.0f});
    CHECK(tokens.front() == 0 && tokens.back() == 0);
}

}  // namespace tinyllm::test

CUDA_TEST_MAIN()
