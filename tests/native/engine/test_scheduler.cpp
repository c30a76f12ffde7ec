// The scheduler on made-up requests: no model, no device.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "check.h"
#include "engine/scheduler.h"

using namespace tinyllm;

namespace {

constexpr StepBudget kRoomy{.free_slots = 8, .free_pages = 100, .max_prefill_rows = 256, .chunk_rows = 64};

// A request that has not started, of `prompt` tokens and `pages` pages.
SequenceState fresh(int32_t prompt, int32_t pages = 1) { return {prompt, 0, pages}; }
// One that generates.
SequenceState generating(int32_t prompt = 5) { return {prompt, prompt + 3, 1}; }

bool is(const PrefillChunk& chunk, int32_t index, int32_t first, int32_t count) {
    return chunk.index == index && chunk.first == first && chunk.count == count;
}

}  // namespace

TEST_CASE("nothing to do is an empty plan") {
    const StepPlan plan = plan_step({}, {}, kRoomy);
    CHECK(plan.num_started == 0);
    CHECK(plan.decode.empty());
    CHECK(plan.prefill.empty());
}

TEST_CASE("who generates gets a token and who is in prefill a chunk") {
    const std::vector<SequenceState> running = {generating(), {100, 40, 2}, generating(), {7, 0, 1}};
    const StepPlan plan = plan_step(running, {}, kRoomy);
    CHECK(plan.decode == std::vector<int32_t>({0, 2}));
    CHECK(plan.prefill.size() == 2);
    CHECK(is(plan.prefill[0], 1, 40, 60));  // 64 rows beside those that generate: 60 here, 4 there
    CHECK(is(plan.prefill[1], 3, 0, 4));
}

TEST_CASE("a prompt alone takes the whole step") {
    const std::vector<SequenceState> waiting = {fresh(1000)};
    const StepPlan plan = plan_step({}, waiting, kRoomy);
    CHECK(plan.num_started == 1);
    CHECK(plan.prefill.size() == 1);
    CHECK(is(plan.prefill[0], 0, 0, 256));
}

TEST_CASE("a long prompt delays running answers by one chunk at most") {
    // The worst case: long prompts keep coming while one request generates. Each step has its token.
    std::vector<SequenceState> running = {generating()};
    std::vector<SequenceState> waiting(5, fresh(300, 5));
    int64_t computed = 0;
    for (int step = 0; step < 100 && computed < 1500; ++step) {
        const StepPlan plan = plan_step(running, waiting, kRoomy);
        running.insert(running.end(), waiting.begin(), waiting.begin() + plan.num_started);
        waiting.erase(waiting.begin(), waiting.begin() + plan.num_started);
        CHECK(std::find(plan.decode.begin(), plan.decode.end(), 0) != plan.decode.end());
        int32_t rows = 0;
        for (const PrefillChunk& chunk : plan.prefill) {
            CHECK(chunk.first == running[chunk.index].kv_len);
            running[chunk.index].kv_len += chunk.count;
            rows += chunk.count;
        }
        for (const int32_t index : plan.decode) ++running[index].kv_len;
        CHECK(rows > 0);
        CHECK(rows <= kRoomy.chunk_rows);
        computed += rows;
    }
    CHECK(computed == 1500);
}

TEST_CASE("requests start in order as slots and pages allow") {
    const std::vector<SequenceState> waiting = {fresh(1, 3), fresh(1, 4), fresh(1, 1)};
    const auto started = [&](int32_t slots, int32_t pages) {
        return plan_step({}, waiting, {slots, pages, 256, 64}).num_started;
    };
    CHECK(started(8, 8) == 3);
    CHECK(started(8, 7) == 2);
    CHECK(started(8, 6) == 1);  // the third would fit, but does not overtake the second
    CHECK(started(8, 2) == 0);
    CHECK(started(2, 8) == 2);
    CHECK(started(0, 8) == 0);
}

TEST_CASE("a request that starts is in the same steps prefill") {
    const std::vector<SequenceState> running = {generating()}, waiting = {fresh(10), fresh(80)};
    const StepPlan plan = plan_step(running, waiting, kRoomy);
    CHECK(plan.num_started == 2);
    CHECK(plan.prefill.size() == 2);
    CHECK(is(plan.prefill[0], 1, 0, 10));
    CHECK(is(plan.prefill[1], 2, 0, 54));
}

TEST_CASE("a chunk setting above the buffers is cut") {
    const std::vector<SequenceState> running = {generating()}, waiting = {fresh(500)};
    const StepPlan plan = plan_step(running, waiting, {1, 10, 100, 300});
    CHECK(plan.prefill.size() == 1);
    CHECK(plan.prefill[0].count == 100);
}
