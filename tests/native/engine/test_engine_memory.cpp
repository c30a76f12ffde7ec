// A device that runs out of memory in the middle of a step: an error, after which every request goes on as if it had
// not been.
#include <algorithm>
#include <map>
#include <utility>

#include "backends/cpu/cpu_backend.h"
#include "check.h"
#include "core/error.h"
#include "engine/engine_cases.h"

using namespace tinyllm;
using namespace tinyllm::cpu;
using namespace tinyllm::test;

namespace {

// The CPU, whose `fail_in`-th call from now on finds no memory, and neither do those after it while `stays_full`: when
// a request starts, before a step, at its start, and behind all layers, when the cache has been written.
class FullDevice final : public CpuBackend {
public:
    FullDevice() : CpuBackend(CpuIsa::Portable) {}

    void upload(void* target, const void* source, size_t bytes) override {
        take_memory();
        CpuBackend::upload(target, source, bytes);
    }
    void fill_zero(void* target, size_t bytes) override {
        take_memory();
        CpuBackend::fill_zero(target, bytes);
    }
    void embed(const StepBatch& batch, const LinearWeight& table, uint32_t* seen, void* hidden) override {
        take_memory();
        CpuBackend::embed(batch, table, seen, hidden);
    }
    void logits(const StepBatch& batch, const NormWeight& norm, const LinearWeight& head, const void* hidden,
                void* normed, float* logits) override {
        take_memory();
        CpuBackend::logits(batch, norm, head, hidden, normed, logits);
    }
    void sample(const StepBatch& batch, int32_t vocab_size, const uint32_t* seen, float* logits,
                SampledToken* out) override {
        take_memory();
        CpuBackend::sample(batch, vocab_size, seen, logits, out);
    }

    int fail_in = 0;
    bool stays_full = false;
    int failures = 0;

private:
    void take_memory() {
        if (fail_in == 0 || --fail_in > 0) return;
        if (stays_full) fail_in = 1;
        ++failures;
        fail(TL_STATUS_OUT_OF_MEMORY, "no memory for the code of a kernel");
    }
};

struct Results {
    std::map<uint64_t, std::vector<int32_t>> tokens;
    std::vector<float> logits;
    int failures = 0;
};

std::vector<int32_t> prompt(int32_t length) {
    std::vector<int32_t> tokens(length);
    for (int32_t i = 0; i < length; ++i) tokens[i] = (i * i + 3 * length) % small_model().vocab_size;
    return tokens;
}

// Four requests in `slots` places, one of which wants the logits of its prompt, with a failure at the `fail_in`-th call
// (0: none).
Results run_with_failure(int fail_in, int32_t slots) {
    constexpr int kMostSteps = 1000;
    auto backend = std::make_unique<FullDevice>();
    FullDevice& device = *backend;
    Batcher engine(small_model(), small_engine(slots, 130), std::move(backend));
    engine.runner().fill_random(7);
    device.fail_in = fail_in;
    Results results;
    engine.submit(prompt(50), filtered(8), nullptr);  // two chunks of 32 rows
    engine.submit(prompt(3), limit(9), nullptr);
    results.logits.resize(70 * small_model().vocab_size);
    engine.submit(prompt(70), limit(0), results.logits.data());
    engine.submit(prompt(5), filtered(4), nullptr);
    bool busy = true;
    for (int steps = 0; busy; ++steps) {
        CHECK(steps < kMostSteps);
        if (steps == kMostSteps) break;
        std::vector<Event> events;
        busy = engine.step(events);
        for (const Event& event : events)
            if (event.token_id >= 0) results.tokens[event.request_id].push_back(event.token_id);
    }
    CHECK(engine.free_pages() == engine.total_pages());
    results.failures = device.failures;
    return results;
}

}  // namespace

TEST(a_step_that_found_no_memory_is_made_again) {
    for (const int32_t slots : {1, 3}) {
        const Results expected = run_with_failure(0, slots);
        CHECK(expected.failures == 0 && expected.tokens.size() == 3);
        int fail_in = 1;
        for (;; ++fail_in) {
            const Results results = run_with_failure(fail_in, slots);
            CHECK(results.tokens == expected.tokens);
            CHECK(results.logits == expected.logits);
            if (results.failures == 0) break;  // there were fewer calls than that
            CHECK(results.failures == 1);
        }
        CHECK(fail_in > 50);
    }
}

TEST(a_device_that_stays_full_ends_the_youngest_requests_first_and_then_works_again) {
    auto backend = std::make_unique<FullDevice>();
    FullDevice& device = *backend;
    Batcher batcher(small_model(), small_engine(3, 130), std::move(backend));
    batcher.runner().fill_random(7);
    std::vector<uint64_t> ids;
    for (int32_t i = 0; i < 4; ++i) ids.push_back(batcher.submit(prompt(5 + i), limit(30)));
    std::vector<Event> events;
    for (int step = 0; step < 5; ++step) batcher.step(events);
    const auto before =
        std::count_if(events.begin(), events.end(), [&](const Event& event) { return event.request_id == ids[0]; });
    device.fail_in = 1;
    device.stays_full = true;
    std::vector<uint64_t> ended;
    const auto step_on = [&] {
        events.clear();
        batcher.step(events);
        for (const Event& event : events) {
            CHECK(event.finish_reason == TL_FINISH_ERROR && event.status == TL_STATUS_OUT_OF_MEMORY);
            CHECK(event.error == "no memory for the code of a kernel");
            ended.push_back(event.request_id);
        }
    };
    step_on();
    CHECK(ended.empty());  // once may be chance
    step_on();
    CHECK(ended == std::vector<uint64_t>({ids[2]}));
    step_on();
    device.fail_in = 0;
    device.stays_full = false;
    const auto tokens = run(batcher);
    CHECK(before > 0 && tokens.at(ids[0]).size() + before == 30);
    CHECK(tokens.count(ids[2]) == 0 && tokens.at(ids[3]).size() == 30);
    CHECK(batcher.free_pages() == batcher.total_pages());
}

TEST_MAIN()
