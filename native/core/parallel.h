// Thread pool of the CPU backend: parallel loops over an index range.
#pragma once

#include <algorithm>
#include <atomic>
#include <concepts>
#include <cstdint>
#include <type_traits>

namespace tinyllm {

// Threads that parallel loops use: TINYLLM_NUM_THREADS, else the physical cores this process may run on. Read once.
// Throws a Config error for a value of TINYLLM_NUM_THREADS that is no number from 1 to kMaxThreads.
int num_threads();
constexpr int kMaxThreads = 1024;

// A callable body(thread, begin, end), by reference: like std::function, but it never allocates. It lives only as long
// as the expression it is made from, which is as long as a loop runs.
class LoopBody {
public:
    template <typename F>
        requires std::invocable<const F&, int, int64_t, int64_t> && (!std::same_as<std::remove_cvref_t<F>, LoopBody>)
    LoopBody(const F& body)  // NOLINT(google-explicit-constructor): loops are called with a lambda
        : body_(&body), call_([](const void* f, int thread, int64_t begin, int64_t end) {
              (*static_cast<const F*>(f))(thread, begin, end);
          }) {}
    void operator()(int thread, int64_t begin, int64_t end) const { call_(body_, thread, begin, end); }

private:
    const void* body_;
    void (*call_)(const void*, int, int64_t, int64_t);
};

// Splits [0, count) into at most num_threads() contiguous shares, each a multiple of `grain` (but the last), and calls
// body(thread, begin, end) once for every share, on as many threads; returns when all are done. `thread` counts the
// shares from 0, so two calls that run at the same time never have the same one. The split depends on `count`, `grain`
// and num_threads() only. Where a thread is slow to wake, the caller takes over its share.
// Exceptions of a body are rethrown in the caller (the first, once every share has ended). Loops of several threads
// take turns; a loop inside a loop runs on the calling thread, share by share. A loop of one share wakes nobody.
void parallel_for(int64_t count, int64_t grain, LoopBody body);

// While one lives, idle threads look for the next loop for milliseconds, not microseconds, before they sleep: for loops
// that follow each other at the pace of another device or process. Waking all threads takes about a millisecond.
class KeepThreadsAwake {
public:
    KeepThreadsAwake();
    ~KeepThreadsAwake();
    KeepThreadsAwake(const KeepThreadsAwake&) = delete;
    KeepThreadsAwake& operator=(const KeepThreadsAwake&) = delete;
};

// Calls body(thread, index) once for every index in [0, count), each thread taking the next index when it is free: for
// work of uneven size. Which thread gets which index is up to chance.
template <typename F>
void parallel_for_each(int64_t count, const F& body) {
    std::atomic<int64_t> next{0};
    parallel_for(std::min<int64_t>(count, num_threads()), 1, [&](int thread, int64_t, int64_t) {
        for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) body(thread, i);
    });
}

}  // namespace tinyllm
