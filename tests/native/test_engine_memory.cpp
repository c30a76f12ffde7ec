// A device that runs out of memory in the middle of a step: an error, after which every request goes on as if it had
// not been.
#include <map>
#include <utility>

#include "backends/cpu/cpu_backend.h"
#include "check.h"
#include "core/error.h"
#include "engine_cases.h"

using namespace tinyllm;
using namespace tinyllm::test;

namespace {

// The CPU, whose `fail_in`-th logits from now on find no memory: behind all layers, when the cache has been written.
class FullDevice final : public CpuBackend {
public:
    FullDevice() : CpuBackend(CpuIsa::Portable) {}

    void logits(const StepBatch& batch, const NormWeight& norm, const LinearWeight& head, const void* hidden,
                void* normed, float* logits) override {
        if (fail_in > 0 && --fail_in == 0) fail(TL_STATUS_OUT_OF_MEMORY, "no memory for the code of a kernel");
        CpuBackend::logits(batch, norm, head, hidden, normed, logits);
    }

    int fail_in = 0;
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

// Three requests, one of which wants the logits of its prompt, with a failure at the `fail_in`-th logits (0: none).
Results run_with_failure(int fail_in) {
    auto backend = std::make_unique<FullDevice>();
    FullDevice& device = *backend;
    Engine engine(small_model(), small_engine(3, 130), std::move(backend));
    engine.fill_random(7);
    device.fail_in = fail_in;
    Results results;
    engine.submit(prompt(50), filtered(8), nullptr);  // two chunks of 32 rows
    engine.submit(prompt(3), limit(9), nullptr);
    results.logits.resize(70 * small_model().vocab_size);
    engine.submit(prompt(70), limit(0), results.logits.data());
    bool busy = true;
    while (busy) {
        std::vector<tl_event> events;
        try {
            busy = engine.step(events, engine.max_events());
        } catch (const Error& error) {
            CHECK(error.status() == TL_STATUS_OUT_OF_MEMORY);
            ++results.failures;
        }
        for (const tl_event& event : events)
            if (event.token_id >= 0) results.tokens[event.request_id].push_back(event.token_id);
    }
    CHECK(engine.free_pages() == engine.total_pages());
    return results;
}

}  // namespace

TEST(a_step_that_found_no_memory_is_made_again) {
    const Results expected = run_with_failure(0);
    CHECK(expected.failures == 0 && expected.tokens.size() == 2);
    int fail_in = 1;
    for (;; ++fail_in) {
        const Results results = run_with_failure(fail_in);
        CHECK(results.tokens == expected.tokens);
        CHECK(results.logits == expected.logits);
        if (results.failures == 0) break;  // there were fewer logits than that
        CHECK(results.failures == 1);
    }
    CHECK(fail_in > 10);
}

TEST_MAIN()
