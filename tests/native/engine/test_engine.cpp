// The engine's thread: requests of many threads, queues that are read late or never, ends of all kinds, forks.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>

#include "api/session.h"
#include "backends/cpu/cpu_backend.h"
#include "check.h"
#include "core/error.h"
#include "engine/engine.h"
#include "engine/engine_cases.h"

using namespace tinyllm;
using namespace tinyllm::test;

namespace {

constexpr uint64_t kSeed = 7;

std::vector<int32_t> prompt(int32_t length) {
    std::vector<int32_t> tokens(length);
    for (int32_t i = 0; i < length; ++i) tokens[i] = (i * i + 3 * length) % small_model().vocab_size;
    return tokens;
}

// All events of a queue until its requests have ended.
std::vector<tl_event> take_all(EventQueue& queue) {
    std::vector<tl_event> all, some(7);
    while (true) {
        const int32_t count = queue.wait(some.data(), static_cast<int32_t>(some.size()), 10'000);
        if (count == 0) return all;
        all.insert(all.end(), some.begin(), some.begin() + count);
    }
}

std::map<uint64_t, std::vector<int32_t>> tokens_of(const std::vector<tl_event>& events) {
    std::map<uint64_t, std::vector<int32_t>> tokens;
    for (const tl_event& event : events)
        if (event.token_id >= 0) tokens[event.request_id].push_back(event.token_id);
    return tokens;
}

// Tokens of `params` on the prompts of `lengths`, from a batcher that nobody else uses.
std::vector<std::vector<int32_t>> expected_tokens(const std::vector<int32_t>& lengths, const GenerationParams& params) {
    Batcher batcher(small_model(), small_engine(4, 130));
    batcher.runner().fill_random(kSeed);
    std::vector<std::vector<int32_t>> expected;
    for (const int32_t length : lengths) {
        const uint64_t id = batcher.submit(prompt(length), params);
        expected.push_back(run(batcher)[id]);
    }
    return expected;
}

// The CPU, whose steps fail while `broken`, and are slow by `delay`.
class FaultyDevice final : public cpu::CpuBackend {
public:
    FaultyDevice() : CpuBackend(cpu::CpuIsa::Portable) {}
    void embed(const StepBatch& batch, const LinearWeight& table, uint32_t* seen, void* hidden) override {
        if (broken) fail(TL_STATUS_CUDA, "the device fell off the bus");
        std::this_thread::sleep_for(delay);
        CpuBackend::embed(batch, table, seen, hidden);
    }
    std::atomic<bool> broken = false;
    std::chrono::milliseconds delay{0};
};

}  // namespace

TEST_CASE("threads get the tokens that they would get alone") {
    const std::vector<int32_t> lengths = {1, 5, 33, 64, 70};
    const auto expected = expected_tokens(lengths, filtered(9));
    Engine engine(small_model(), small_engine(4, 130));
    engine.fill_random(kSeed);
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            for (int round = 0; round < 10; ++round) {
                const size_t which = (t + round) % lengths.size();
                auto queue = std::make_shared<EventQueue>();
                const uint64_t id = engine.submit({{prompt(lengths[which]), filtered(9), nullptr}}, queue);
                if (tokens_of(take_all(*queue))[id] != expected[which]) ++wrong;
            }
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
    CHECK(engine.free_pages() == engine.total_pages());
}

TEST_CASE("one queue takes many requests and events stay in order") {
    const std::vector<int32_t> lengths = {40, 3, 90, 5, 6, 7};
    const auto expected = expected_tokens(lengths, limit(12));
    Engine engine(small_model(), small_engine(2, 130));
    engine.fill_random(kSeed);
    auto queue = std::make_shared<EventQueue>();
    std::vector<NewRequest> requests;
    for (const int32_t length : lengths) requests.push_back({prompt(length), limit(12), nullptr});
    const uint64_t first = engine.submit(std::move(requests), queue);
    const std::vector<tl_event> events = take_all(*queue);
    auto tokens = tokens_of(events);
    for (size_t i = 0; i < lengths.size(); ++i) CHECK(tokens[first + i] == expected[i]);
    CHECK(std::count_if(events.begin(), events.end(), [](const tl_event& event) {
              return event.finish_reason == TL_FINISH_LENGTH;
          }) == static_cast<std::ptrdiff_t>(lengths.size()));
}

TEST_CASE("one wrong request of a list queues none") {
    Engine engine(small_model(), small_engine(2, 64));
    auto queue = std::make_shared<EventQueue>();
    CHECK_THROWS_WITH(engine.submit({{{1}, limit(1), nullptr}}, queue),
                      doctest::Contains("after the weights are loaded"));
    engine.fill_random(kSeed);
    CHECK_THROWS_WITH(engine.submit({{{1}, limit(5), nullptr}, {{131}, limit(5), nullptr}}, queue),
                      doctest::Contains("token id 131"));
    tl_event event;
    CHECK(queue->wait(&event, 1, 10'000) == 0);
    CHECK(queue->live().empty());
    CHECK(engine.free_pages() == engine.total_pages());
}

TEST_CASE("a crowd of requests is cancelled at once") {
    Engine engine(small_model(), small_engine(1, 130));
    engine.fill_random(kSeed);
    auto queue = std::make_shared<EventQueue>();
    engine.submit(std::vector<NewRequest>(30'000, {prompt(100), limit(20), nullptr}), queue);
    engine.cancel(queue->live());
    queue->wait_until_idle(false);
    CHECK(queue->live().empty());
    CHECK(engine.free_pages() == engine.total_pages());
}

TEST_CASE("cancelled requests say so and others go on") {
    Engine engine(small_model(), small_engine(2, 130));
    engine.fill_random(kSeed);
    auto queue = std::make_shared<EventQueue>();
    const uint64_t first = engine.submit(std::vector<NewRequest>(3, {prompt(5), limit(100), nullptr}), queue);
    engine.cancel({first, first + 2, first + 99});
    const std::vector<tl_event> events = take_all(*queue);
    const auto reason = [&](uint64_t id) {
        const auto last =
            std::find_if(events.rbegin(), events.rend(), [&](const tl_event& event) { return event.request_id == id; });
        return last == events.rend() ? -1 : last->finish_reason;
    };
    CHECK(reason(first) == TL_FINISH_CANCELLED);
    CHECK(reason(first + 2) == TL_FINISH_CANCELLED);
    CHECK(reason(first + 1) == TL_FINISH_LENGTH);
    CHECK(engine.free_pages() == engine.total_pages());
}

TEST_CASE("a failed device ends all requests with the reason") {
    auto backend = std::make_unique<FaultyDevice>();
    FaultyDevice& device = *backend;
    Engine engine(small_model(), small_engine(1, 130), std::move(backend));
    engine.fill_random(kSeed);
    device.delay = std::chrono::milliseconds(2);
    auto queue = std::make_shared<EventQueue>();
    const uint64_t first = engine.submit(std::vector<NewRequest>(3, {prompt(5), limit(100), nullptr}), queue);
    tl_event event;
    CHECK(queue->wait(&event, 1, 10'000) == 1);
    CHECK(event.finish_reason == TL_FINISH_NONE);
    device.broken = true;
    size_t failed = 0;
    for (const tl_event& end : take_all(*queue)) {
        if (end.finish_reason == TL_FINISH_NONE) continue;
        ++failed;
        CHECK(end.finish_reason == TL_FINISH_ERROR);
        CHECK(end.status == TL_STATUS_CUDA);
        CHECK(end.token_id == -1);
    }
    CHECK(failed == 3);
    CHECK(queue->error_of(first + 1) == "the device fell off the bus");
    CHECK(queue->error_of(first + 9).empty());
    CHECK_THROWS_WITH(engine.submit({{{1}, limit(1), nullptr}}, queue),
                      doctest::Contains("close it and load the model again"));
}

TEST_CASE("waiting ends after its time") {
    auto backend = std::make_unique<FaultyDevice>();
    backend->delay = std::chrono::milliseconds(300);
    Engine engine(small_model(), small_engine(1, 130), std::move(backend));
    engine.fill_random(kSeed);
    auto queue = std::make_shared<EventQueue>();
    const uint64_t id = engine.submit({{prompt(5), limit(3), nullptr}}, queue);
    tl_event event;
    CHECK(queue->wait(&event, 1, 1) == 0);
    CHECK(queue->is_live(id));
    CHECK(queue->wait(&event, 1, 10'000) == 1);
    engine.cancel({id});
    queue->wait_until_idle(false);
}

TEST_CASE("closing ends waits and refuses calls") {
    for (int round = 0; round < 20; ++round) {
        Session session(small_model(), small_engine(2, 130));
        session.use([](Engine& engine) { engine.fill_random(kSeed); });
        std::vector<std::thread> threads;
        std::atomic<int> begun{0}, closed{0}, other{0};
        for (int t = 0; t < 3; ++t)
            threads.emplace_back([&] {
                std::vector<float> logits(70 * small_model().vocab_size);
                try {
                    for (bool first = true;; first = false) {
                        const std::shared_ptr<EventQueue> queue = session.make_queue();
                        session.use([&](Engine& engine) {
                            engine.submit({{prompt(5), limit(9), nullptr}, {prompt(70), limit(0), logits.data()}},
                                          queue);
                        });
                        if (first) ++begun;
                        try {
                            take_all(*queue);
                        } catch (const Error&) {
                            queue->wait_until_idle(true);  // `logits` is written until then
                            throw;
                        }
                    }
                } catch (const Error& error) {
                    ++(error.status() == TL_STATUS_CLOSED ? closed : other);
                }
            });
        while (begun < 3) std::this_thread::yield();
        std::thread([&] { session.close(); }).join();
        session.close();
        for (std::thread& thread : threads) thread.join();
        CHECK(closed == 3);
        CHECK(other == 0);
        CHECK(session.closed());
        CHECK_THROWS_WITH(session.make_queue(), doctest::Contains("this model is closed"));
        CHECK_THROWS_WITH(session.use([](Engine& engine) { return engine.free_pages(); }),
                          doctest::Contains("this model is closed"));
    }
    CHECK(MemoryTracker::live_bytes_in_process() == 0);
}

TEST_CASE("a forked child has a thread of its own") {
    const auto expected = expected_tokens({5}, limit(6));
    Engine engine(small_model(), small_engine(2, 130));
    engine.fill_random(kSeed);
    const auto generated = [&] {
        auto queue = std::make_shared<EventQueue>();
        const uint64_t id = engine.submit({{prompt(5), limit(6), nullptr}}, queue);
        return tokens_of(take_all(*queue))[id];
    };
    CHECK(generated() == expected[0]);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the step's thread has gone to sleep
    const pid_t child = fork();
    if (child == 0) _exit(generated() == expected[0] ? 0 : 1);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    CHECK(generated() == expected[0]);
}
