// Test hooks of sampling: the sample op and its random numbers.
#include <algorithm>
#include <numeric>
#include <vector>

#include "api/api_guard.h"
#include "ops/philox.h"
#include "testing/test_run.h"
#include "testing/testing.h"

namespace tinyllm::testing {

namespace {

void sample(const tl_test_target& target, const tl_test_batch& batch, int32_t vocab_size, const float* logits,
            const SampleParams* params, const uint32_t* seen, SampledToken* out) {
    const int32_t count = batch.num_rows;
    TestRun run(target, {{}, {}, vocab_size}, batch);
    std::vector<int32_t> rows(count);
    std::iota(rows.begin(), rows.end(), 0);
    run.set_logits_rows(rows.data(), count);
    run.set_sample_params(
        params, std::all_of(params, params + count, [](const SampleParams& row) { return row.is_plain_greedy(); }));
    const int64_t seen_words = int64_t{batch.num_slots} * ((vocab_size + 31) / 32);
    const uint32_t* device_seen = seen == nullptr ? nullptr : run.uploaded(seen, seen_words, "seen");
    float* device_logits = run.uploaded(logits, int64_t{count} * vocab_size, "logits");
    auto* device_out = static_cast<SampledToken*>(run.poisoned(count * sizeof(SampledToken), "sampled"));
    run.backend().sample(run.batch(), vocab_size, device_seen, device_logits, device_out);
    run.finish();
    run.download(out, device_out, count);
}

void philox(uint64_t seed, uint32_t counter0, uint32_t counter1, uint32_t* words, float* noise) {
    const Philox4 random = philox4x32_10(seed, counter0, counter1);
    std::copy(std::begin(random.word), std::end(random.word), words);
    std::transform(std::begin(random.word), std::end(random.word), noise, gumbel);
}

}  // namespace

}  // namespace tinyllm::testing

using namespace tinyllm;

tl_status tl_test_sample(const tl_test_target* target, const tl_test_batch* batch, int32_t vocab_size,
                         const float* logits, const SampleParams* params, const uint32_t* seen, SampledToken* out) {
    return guarded([&] { testing::sample(*target, *batch, vocab_size, logits, params, seen, out); });
}

tl_status tl_test_philox(uint64_t seed, uint32_t counter0, uint32_t counter1, uint32_t* words, float* noise) {
    return guarded([&] { testing::philox(seed, counter0, counter1, words, noise); });
}
