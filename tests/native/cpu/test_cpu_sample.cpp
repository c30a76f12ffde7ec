// The sample op of the CPU backend: against a naive sampler that sorts and adds in double, and against the softmax.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/sampling/sample.h"
#include "backends/cpu/sampling/sample_row.h"
#include "check.h"
#include "cpu/cpu_cases.h"
#include "ops/philox.h"
#include "tolerances.h"

using namespace tinyllm;
using namespace tinyllm::cpu;
using namespace tinyllm::test;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

const int g_environment = setenv("TINYLLM_NUM_THREADS", "3", 1);

SampleParams plain(float temperature) {
    SampleParams params{};
    params.seed = 0x123456789abcdef0;
    params.temperature = temperature;
    params.top_p = 1;
    params.repetition_penalty = 1;
    return params;
}

std::vector<SampledToken> sample(CpuIsa isa, int32_t vocab, const std::vector<float>& logits,
                                 const std::vector<SampleParams>& params, const std::vector<uint32_t>& seen = {}) {
    StepBatch batch;
    batch.num_logits = static_cast<int32_t>(params.size());
    batch.sample_params = params.data();
    std::vector<float> scratch(sample_scratch_bytes(vocab, batch.num_logits) / 4, kNan);
    std::vector<float> row = logits;  // the op may overwrite it
    std::vector<SampledToken> out(params.size());
    CpuBackend backend(isa);
    backend.bind_scratch(scratch.data(), scratch.size() * 4);
    backend.sample(batch, vocab, seen.empty() ? nullptr : seen.data(), row.data(), out.data());
    return out;
}

int32_t sample_one(CpuIsa isa, const std::vector<float>& logits, const SampleParams& params,
                   const std::vector<uint32_t>& seen = {}) {
    return sample(isa, static_cast<int32_t>(logits.size()), logits, {params}, seen)[0].token_id;
}

// Tokens by descending score, equal ones by ascending id; NaN left out.
std::vector<int64_t> ranked(const std::vector<float>& scores) {
    std::vector<int64_t> ids;
    for (size_t i = 0; i < scores.size(); ++i)
        if (!std::isnan(scores[i])) ids.push_back(static_cast<int64_t>(i));
    std::stable_sort(ids.begin(), ids.end(), [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
    return ids;
}

// What the filters keep, by the definition in ops.h.
std::set<int64_t> naive_kept(const std::vector<float>& scores, const SampleParams& params) {
    std::vector<int64_t> ids = ranked(scores);
    if (params.top_k > 0 && params.top_k < static_cast<int32_t>(ids.size())) ids.resize(params.top_k);
    const double max = scores[ids[0]];
    const auto weight = [&](int64_t id) { return std::exp((scores[id] - max) / params.temperature); };
    if (params.top_p < 1) {
        double total = 0, sum = 0;
        for (int64_t id : ids) total += weight(id);
        size_t count = 0;
        while (count < ids.size() && (count == 0 || sum < params.top_p * total)) sum += weight(ids[count++]);
        ids.resize(count);
    }
    std::set<int64_t> kept;
    for (int64_t id : ids)
        if (weight(id) >= params.min_p) kept.insert(id);
    return kept;
}

std::set<int64_t> actual_kept(CpuIsa isa, const std::vector<float>& scores, const SampleParams& params) {
    const LogitKernels& kernels = cpu::kernels(isa).logits;
    const auto vocab = static_cast<int64_t>(scores.size());
    std::vector<float> work(vocab);
    const RowSampler sampler(kernels, params, scores.data(), vocab, kernels.argmax(scores.data(), vocab), work.data());
    const Cutoff cutoff = sampler.cutoff();
    std::set<int64_t> kept;
    for (int64_t i = 0; i < vocab; ++i)
        if (cutoff.keeps(scores[i], i)) kept.insert(i);
    return kept;
}

int64_t naive_draw(const std::vector<float>& scores, const SampleParams& params) {
    const float max = scores[ranked(scores)[0]];
    int64_t winner = -1;
    float best = -kInfinity;
    for (int64_t id : naive_kept(scores, params)) {
        const Philox4 random =
            philox4x32_10(params.seed, static_cast<uint32_t>(id / 4), static_cast<uint32_t>(params.position));
        const float value = (scores[id] - max) / params.temperature + gumbel(random.word[id % 4]);
        if (value > best) {
            best = value;
            winner = id;
        }
    }
    return winner;
}

struct FilterCase {
    float temperature;
    int32_t top_k;
    float top_p, min_p;
};
constexpr FilterCase kFilters[] = {
    {1, 0, 1, 0},      {0.3f, 0, 1, 0},    {3, 0, 1, 0},    {1, 1, 1, 0},      {1, 7, 1, 0},
    {1, 900, 1, 0},    {1, 1 << 30, 1, 0}, {1, 0, 0.9f, 0}, {2, 0, 0.999f, 0}, {0.7f, 0, 0.05f, 0},
    {1, 0, 1e-20f, 0}, {1, 0, 1, 0.1f},    {1, 0, 1, 1},    {1, 50, 0.9f, 0},  {1.5f, 40, 0.95f, 0.05f},
};

SampleParams with_filters(const FilterCase& c) {
    SampleParams params = plain(c.temperature);
    params.top_k = c.top_k;
    params.top_p = c.top_p;
    params.min_p = c.min_p;
    return params;
}

// Rows of logits with what makes filters hard: few and many tokens, equal scores, infinities below.
std::vector<std::vector<float>> hard_rows() {
    std::vector<std::vector<float>> rows;
    for (int64_t vocab : {1, 3, 63, 64, 65, 1000, 5003}) rows.push_back(random_floats(vocab, 5, 3.0f));
    rows.push_back(std::vector<float>(2500, 1.25f));
    std::vector<float> coarse = random_floats(3000, 6, 2.0f);
    for (float& x : coarse) x = std::round(x);
    rows.push_back(coarse);
    std::vector<float> holes = random_floats(1500, 7, 3.0f);
    for (size_t i = 0; i < holes.size(); i += 3) holes[i] = -kInfinity;
    rows.push_back(holes);
    std::vector<float> peaked = random_floats(2000, 8, 1.0f);
    peaked[1234] = 60;
    rows.push_back(peaked);
    std::vector<float> far = random_floats(5000, 9, 0.2f);  // half of the probability lies far below the maximum
    far[77] = 9;
    rows.push_back(far);
    return rows;
}

}  // namespace

TEST_CASE("greedy takes the first maximum") {
    for (CpuIsa isa : available_isas()) {
        for (int64_t vocab : {1, 15, 16, 17, 1023, 1024, 1025, 4999}) {
            std::vector<float> logits = random_floats(vocab, 1);
            for (int64_t at : {int64_t{0}, vocab / 2, vocab - 1}) {
                std::vector<float> row = logits;
                row[at] = row[vocab - 1] = 9;
                CHECK(sample_one(isa, row, plain(0)) == at);
            }
        }
    }
}

TEST_CASE("rows with logits that are not finite give no token") {
    for (CpuIsa isa : available_isas()) {
        for (float temperature : {0.0f, 1.0f}) {
            SampleParams params = plain(temperature);
            params.top_k = 5, params.top_p = 0.9f, params.min_p = 0.1f;
            CHECK(sample_one(isa, std::vector<float>(300, kNan), params) == kNoToken);
            CHECK(sample_one(isa, std::vector<float>(300, -kInfinity), params) == kNoToken);
            for (const float bad : {kNan, -kNan, kInfinity}) {
                for (const size_t at : {size_t{0}, size_t{211}, size_t{300}}) {
                    std::vector<float> row(301, 0.5f);
                    row[at] = bad;
                    CHECK(sample_one(isa, row, params) == kNoToken);
                }
            }
            std::vector<float> one(300, -kInfinity);
            one[211] = -5;
            CHECK(sample_one(isa, one, params) == 211);
        }
    }
}

// Weights in fp32 may decide otherwise where a border is hit almost exactly: whatever both sides of it keep is right.
TEST_CASE("filters keep what their definition says") {
    int cases = 0, undecided = 0;
    for (CpuIsa isa : available_isas())
        for (const std::vector<float>& row : hard_rows())
            for (const FilterCase& filter : kFilters) {
                SampleParams strict = with_filters(filter), loose = strict;
                strict.top_p *= 1 - kFilterBorder, loose.top_p *= 1 + kFilterBorder;
                strict.min_p *= 1 + kFilterBorder, loose.min_p *= 1 - kFilterBorder;
                if (filter.top_p == 1) strict.top_p = loose.top_p = 1;  // off
                if (filter.min_p == 1) strict.min_p = loose.min_p = 1;  // exact
                const std::set<int64_t> got = actual_kept(isa, row, with_filters(filter));
                const std::set<int64_t> least = naive_kept(row, strict), most = naive_kept(row, loose);
                CHECK(std::includes(got.begin(), got.end(), least.begin(), least.end()));
                CHECK(std::includes(most.begin(), most.end(), got.begin(), got.end()));
                ++cases;
                undecided += least != most;
            }
    CHECK(undecided * 10 < cases);
}

TEST_CASE("draws equal the naive sampler") {
    for (CpuIsa isa : available_isas())
        for (const std::vector<float>& row : hard_rows())
            for (const FilterCase& filter : kFilters)
                for (int32_t position = 0; position < 5; ++position) {
                    SampleParams params = with_filters(filter);
                    params.position = position;
                    const std::set<int64_t> kept = actual_kept(isa, row, params);
                    if (kept != naive_kept(row, params)) continue;  // a border, see above
                    CHECK(sample_one(isa, row, params) == naive_draw(row, params));
                }
}

TEST_CASE("tiny temperatures are greedy") {
    const std::vector<float> logits = random_floats(500, 3);
    for (CpuIsa isa : available_isas())
        for (float temperature : {1e-45f, 1e-38f, 1e-30f, 1e-4f})
            CHECK(sample_one(isa, logits, plain(temperature)) == sample_one(isa, logits, plain(0)));
}

// 20,000 positions of one request; expected counts below 5 are pooled, as the test requires.
TEST_CASE("draws follow the softmax") {
    constexpr int kDraws = 20000;
    const std::vector<float> logits = random_floats(200, 11, 2.0f);
    for (CpuIsa isa : available_isas()) {
        for (float temperature : {0.5f, 1.0f, 2.0f}) {
            std::vector<SampleParams> params(kDraws, plain(temperature));
            std::vector<float> rows;
            for (int i = 0; i < kDraws; ++i) {
                params[i].position = i;
                rows.insert(rows.end(), logits.begin(), logits.end());
            }
            std::vector<double> count(logits.size());
            for (const SampledToken& token : sample(isa, static_cast<int32_t>(logits.size()), rows, params))
                ++count[token.token_id];
            double total = 0;
            for (float x : logits) total += std::exp(x / temperature);
            double chi_square = 0, pooled_expected = 0, pooled_count = 0;
            int cells = 0;
            const auto add_cell = [&](double observed, double expected) {
                chi_square += (observed - expected) * (observed - expected) / expected;
                ++cells;
            };
            for (size_t i = 0; i < logits.size(); ++i) {
                const double expected = kDraws * std::exp(logits[i] / temperature) / total;
                if (expected >= 5) {
                    add_cell(count[i], expected);
                } else {
                    pooled_expected += expected;
                    pooled_count += count[i];
                }
            }
            if (pooled_expected >= 5) add_cell(pooled_count, pooled_expected);
            CHECK(cells > 20);
            CHECK(chi_square < chi_square_limit(cells - 1));
        }
    }
}

TEST_CASE("seeds and positions matter") {
    const std::vector<float> logits(1000, 0.0f);
    std::set<int32_t> tokens;
    for (uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}}) {
        for (int32_t position : {0, 1, 77}) {
            SampleParams params = plain(1);
            params.seed = seed;
            params.position = position;
            tokens.insert(sample_one(detected_isa(), logits, params));
        }
    }
    CHECK(tokens.size() >= 11);  // 12 draws of 1000
}

TEST_CASE("every seen token is penalised once") {
    for (CpuIsa isa : available_isas()) {
        const std::vector<float> logits = {2.0f, -1.0f, 1.5f, -0.9f, 0.5f};
        std::vector<uint32_t> seen = {0u, 0b00011u};  // slot 1 saw tokens 0 and 1
        SampleParams params = plain(0);
        params.slot = 1;
        params.repetition_penalty = 1.3f;  // 2 becomes 1.54
        CHECK(sample_one(isa, logits, params, seen) == 0);
        params.repetition_penalty = 1.4f;  // 1.43
        CHECK(sample_one(isa, logits, params, seen) == 2);
        params.slot = 0;
        CHECK(sample_one(isa, logits, params, seen) == 0);
        // Negative logits are multiplied: -1 becomes -2.5, below -0.9 in any case.
        const std::vector<float> negative = {-0.8f, -2.0f, -1.0f};
        params.slot = 1;
        params.repetition_penalty = 1.2f;  // -0.8 becomes -0.96
        CHECK(sample_one(isa, negative, params, seen) == 0);
        params.repetition_penalty = 1.3f;  // -1.04
        CHECK(sample_one(isa, negative, params, seen) == 2);
    }
}

TEST_CASE("logprobs are of the raw logits") {
    for (CpuIsa isa : available_isas()) {
        for (int64_t vocab : {1, 100, 49157}) {
            const std::vector<float> logits = random_floats(vocab, 21, 4.0f);
            const std::vector<uint32_t> seen((vocab + 31) / 32, 0x55555555u & (vocab < 32 ? 1u : ~0u));
            SampleParams params = plain(0.8f);
            params.top_k = 20;
            params.repetition_penalty = 1.5f;
            params.logprobs = 1;
            const SampledToken got = sample(isa, static_cast<int32_t>(vocab), logits, {params}, seen)[0];
            double total = 0;
            for (float x : logits) total += std::exp(static_cast<double>(x));
            CHECK_CLOSE(got.logprob, logits[got.token_id] - std::log(total), kLogprob);
            params.logprobs = 0;
            const SampledToken without = sample(isa, static_cast<int32_t>(vocab), logits, {params}, seen)[0];
            CHECK(without.token_id == got.token_id);
            CHECK(std::isnan(without.logprob));
        }
    }
}

TEST_CASE("rows do not see each other") {
    constexpr int32_t kVocab = 700, kRows = 12;
    const std::vector<float> logits = random_floats(kVocab * kRows, 31, 3.0f);
    std::vector<SampleParams> params;
    for (int32_t i = 0; i < kRows; ++i) {
        params.push_back(with_filters(kFilters[i]));
        params.back().position = i;
    }
    for (CpuIsa isa : available_isas()) {
        const std::vector<SampledToken> together = sample(isa, kVocab, logits, params);
        for (int32_t i = 0; i < kRows; ++i) {
            const std::vector<float> row(logits.begin() + i * kVocab, logits.begin() + (i + 1) * kVocab);
            CHECK(sample_one(isa, row, params[i]) == together[i].token_id);
        }
    }
}
