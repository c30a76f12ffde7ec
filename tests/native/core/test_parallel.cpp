// The thread pool: every index once, exceptions, nesting, several callers, fork, and silence when idle.
#include "core/parallel.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <ctime>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "core/error.h"
#include "core/host.h"

using namespace tinyllm;

namespace {

constexpr const char* kVariable = "TINYLLM_NUM_THREADS";

// More threads than most test machines have cores, so that shares wait for each other. Before the first loop.
const int g_environment = setenv(kVariable, "5", 1);

// Runs `body` in a child process; returns its exit status, -1 if it did not exit.
template <typename F>
int in_child(const F& body) {
    const pid_t child = fork();
    if (child == 0) _exit(body());
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int64_t sum_in_parallel(int64_t count) {
    std::atomic<int64_t> sum{0};
    parallel_for(count, 1, [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) sum += i;
    });
    return sum;
}

}  // namespace

// First, since the variable is read once a process.
TEST_CASE("number of threads is checked") {
    for (const char* wrong : {"0", "-1", "1025", "four", "4.5", "4 ", "", "99999999999"}) {
        const int status = in_child([&] {
            setenv(kVariable, wrong, 1);
            try {
                return num_threads();
            } catch (const Error& e) {
                const std::string message = e.what();
                const bool named = message.find(std::string("'") + wrong + "'") != std::string::npos;
                return named && e.status() == TL_STATUS_CONFIG ? 200 : 201;
            }
        });
        CHECK(status == 200);
    }
    CHECK(in_child([] { return setenv(kVariable, "7", 1) == 0 ? num_threads() : 0; }) == 7);
    CHECK(in_child([] { return unsetenv(kVariable) == 0 && num_threads() == available_cores() ? 1 : 0; }) == 1);
    CHECK(num_threads() == 5);
}

TEST_CASE("every index once in shares of whole grains") {
    for (int64_t count : {0, 1, 2, 4, 5, 6, 31, 64, 1000}) {
        for (int64_t grain : {1, 3, 16, 100, 5000}) {
            std::vector<std::atomic<int>> hits(count);
            std::vector<std::atomic<int>> shares(num_threads());
            parallel_for(count, grain, [&](int thread, int64_t begin, int64_t end) {
                CHECK(begin < end);
                CHECK(begin % grain == 0);
                CHECK((end % grain == 0 || end == count));
                ++shares[thread];
                for (int64_t i = begin; i < end; ++i) ++hits[i];
            });
            for (const auto& hit : hits) CHECK(hit == 1);
            for (const auto& share : shares) CHECK(share <= 1);
        }
    }
}

TEST_CASE("for each takes every index once") {
    std::vector<std::atomic<int>> hits(1000);
    parallel_for_each(1000, [&](int thread, int64_t i) {
        CHECK(thread >= 0);
        CHECK(thread < num_threads());
        ++hits[i];
    });
    for (const auto& hit : hits) CHECK(hit == 1);
}

TEST_CASE("the split repeats") {
    const auto split = [] {
        std::vector<int64_t> ends(num_threads());
        parallel_for(77, 2, [&](int thread, int64_t, int64_t end) { ends[thread] = end; });
        return ends;
    };
    CHECK(split() == split());
}

TEST_CASE("many short loops") {
    int64_t sum = 0;
    for (int i = 0; i < 20000; ++i) {
        std::atomic<int> shares{0};
        parallel_for(1 + i % 7, 1, [&](int, int64_t begin, int64_t end) { shares += static_cast<int>(end - begin); });
        sum += shares - (1 + i % 7);
    }
    CHECK(sum == 0);
}

TEST_CASE("exceptions reach the caller") {
    for (int culprit = 0; culprit < num_threads(); ++culprit) {
        std::atomic<int> shares{0};
        CHECK_THROWS_WITH(parallel_for(num_threads(), 1,
                                       [&](int thread, int64_t, int64_t) {
                                           ++shares;
                                           if (thread == culprit) throw std::runtime_error("share failed");
                                       }),
                          doctest::Contains("share failed"));
        CHECK(shares == num_threads());
        CHECK(sum_in_parallel(100) == 4950);
    }
}

TEST_CASE("nested loops run on their caller") {
    std::atomic<int64_t> total{0};
    parallel_for(10, 1, [&](int, int64_t begin, int64_t end) {
        const std::thread::id me = std::this_thread::get_id();
        for (int64_t i = begin; i < end; ++i) {
            parallel_for(10, 1, [&](int, int64_t inner_begin, int64_t inner_end) {
                CHECK(std::this_thread::get_id() == me);
                total += inner_end - inner_begin;
            });
        }
    });
    CHECK(total == 100);
}

TEST_CASE("callers on several threads take turns") {
    std::atomic<int> inside{0}, wrong{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 3; ++c) {
        callers.emplace_back([&] {
            for (int i = 0; i < 500; ++i) {
                parallel_for(num_threads(), 1, [&](int, int64_t, int64_t) {
                    if (++inside > num_threads()) ++wrong;
                    --inside;
                });
                if (sum_in_parallel(20) != 190) ++wrong;
            }
        });
    }
    for (std::thread& caller : callers) caller.join();
    CHECK(wrong == 0);
}

// ThreadSanitizer itself cannot start threads in the child of a process that has some.
#ifndef __SANITIZE_THREAD__
TEST_CASE("a forked child has its own pool") {
    CHECK(sum_in_parallel(1000) == 499500);
    std::atomic<bool> stop{false};
    std::thread busy([&] {  // so that a loop is likely to run at the time of the fork
        while (!stop) sum_in_parallel(50);
    });
    for (int i = 0; i < 10; ++i) CHECK(in_child([] { return sum_in_parallel(1000) == 499500 ? 42 : 0; }) == 42);
    stop = true;
    busy.join();
    CHECK(sum_in_parallel(1000) == 499500);
}
#endif

TEST_CASE("idle threads sleep") {
    const auto cpu_seconds = [] {
        timespec t{};
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
    };
    const auto check_sleep = [&] {
        sum_in_parallel(1000);
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        const double before = cpu_seconds();
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        CHECK(cpu_seconds() - before < 0.1);  // one spinning thread alone would take twice that
    };
    check_sleep();
    const KeepThreadsAwake keep_awake;  // for some milliseconds
    check_sleep();
}
