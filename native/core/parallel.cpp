#include "core/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/host.h"

namespace tinyllm {

namespace {

using Clock = std::chrono::steady_clock;

// How long a thread looks for news before it sleeps. Loops of one step follow each other within a few microseconds,
// and waking a sleeping thread costs more than that; an idle engine must not use the processor.
constexpr std::chrono::microseconds kSpin{50};
// The same while a KeepThreadsAwake lives.
constexpr std::chrono::microseconds kLongSpin{2000};
std::atomic<int> g_keep_awake{0};  // how many live

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Spins until ready() or until that time has passed; returns ready().
template <typename F>
bool spin_until(const F& ready) {
    const Clock::time_point end = Clock::now() + (g_keep_awake.load(std::memory_order_relaxed) > 0 ? kLongSpin : kSpin);
    do {
        for (int i = 0; i < 32; ++i) {
            if (ready()) return true;
            relax();
        }
    } while (Clock::now() < end);
    return ready();
}

// Lets threads sleep until a condition on atomics holds; who changes the condition calls wake(). The order is what
// makes it safe: a sleeper counts itself before it tests the condition a last time, a waker changes the condition
// before it looks at the count, all sequentially consistent, so at least one of them sees the other.
class Sleepers {
public:
    template <typename F>
    void sleep_until(const F& ready) {
        std::unique_lock lock(mutex_);
        count_.fetch_add(1);
        changed_.wait(lock, ready);
        count_.fetch_sub(1);
    }
    void wake() {
        if (count_.load() == 0) return;
        std::lock_guard lock(mutex_);
        changed_.notify_all();
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::atomic<int> count_{0};
};

// One loop: what to call, and how the range is split.
struct Loop {
    LoopBody body;
    int64_t count;
    int64_t share_size;

    int num_shares() const { return static_cast<int>((count + share_size - 1) / share_size); }
    void run_share(int share) const { body(share, share * share_size, std::min(count, (share + 1) * share_size)); }
};

// Set while this thread runs a share: a nested loop must not wait for the pool that it is part of.
thread_local bool t_in_loop = false;

void run_alone(const Loop& loop) {
    for (int share = 0; share < loop.num_shares(); ++share) loop.run_share(share);
}

// The caller's share is 0, worker i's is i. Each share is claimed before it is run, by its worker or, where that is
// not awake yet, by the caller. Loops are numbered; a claim names the loop, so that a worker that wakes late claims
// nothing and never looks at a loop that has ended.
class Pool {
public:
    explicit Pool(int threads) : claims_(threads) {
        workers_.reserve(threads - 1);
        try {
            for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
        } catch (const std::system_error&) {
            // Fewer threads than wanted (a process limit): the caller takes over the shares of those missing.
        }
    }
    ~Pool() {
        // No loop is running: who ends the pool holds g_mutex, as parallel_for does while a loop runs.
        news_.store(kStop);
        idle_.wake();
        for (std::thread& worker : workers_) worker.join();
    }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    void run(const Loop& loop) {
        const int shares = loop.num_shares();
        const uint64_t ticket = (++loops_ << kShareBits) | static_cast<uint64_t>(shares);
        loop_ = &loop;
        failed_.store(false, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        news_.store(ticket);
        idle_.wake();
        run_share(0);
        for (int share = 1; share < shares; ++share)
            if (claim(share, ticket)) run_share(share);
        const auto all_done = [&] { return done_.load() == shares; };
        if (!spin_until(all_done)) caller_.sleep_until(all_done);
        if (failed_.load()) std::rethrow_exception(std::exchange(error_, nullptr));
    }

private:
    static constexpr int kShareBits = 16;
    static constexpr uint64_t kStop = ~uint64_t{0};
    static_assert(kMaxThreads < (1 << kShareBits));

    struct alignas(64) Claim {
        std::atomic<uint64_t> ticket{0};  // of the last loop whose share was claimed
    };

    bool claim(int share, uint64_t ticket) {
        uint64_t last = claims_[share].ticket.load();
        return last < ticket && claims_[share].ticket.compare_exchange_strong(last, ticket);
    }

    void run_share(int share) {
        t_in_loop = true;
        try {
            loop_->run_share(share);
        } catch (...) {
            if (!failed_.exchange(true)) error_ = std::current_exception();
        }
        t_in_loop = false;
        done_.fetch_add(1);
        caller_.wake();
    }

    void work(int share) {
        uint64_t seen = 0;
        while (true) {
            const auto has_news = [&] { return news_.load() != seen; };
            if (!spin_until(has_news)) idle_.sleep_until(has_news);
            seen = news_.load();
            if (seen == kStop) return;
            const int shares = static_cast<int>(seen & ((1 << kShareBits) - 1));
            if (share < shares && claim(share, seen)) run_share(share);
        }
    }

    std::vector<Claim> claims_;
    std::vector<std::thread> workers_;
    Sleepers idle_;    // workers that wait for a loop
    Sleepers caller_;  // the caller that waits for the last shares
    uint64_t loops_ = 0;

    alignas(64) std::atomic<uint64_t> news_{0};  // ticket: number of the newest loop, then its shares
    // Of the running loop; written before news_, and read only by who has claimed one of its shares.
    const Loop* loop_ = nullptr;
    std::exception_ptr error_;
    std::atomic<bool> failed_{false};
    alignas(64) std::atomic<int> done_{0};  // shares that have ended
};

// The process's pool. It is made by the first loop, thrown away in the child of a fork (whose threads do not exist
// there), and ended when the process exits or the library is unloaded; loops after that run on their caller alone.
std::mutex g_mutex;      // held while a loop runs
Pool* g_pool = nullptr;  // guarded by g_mutex
bool g_no_more = false;  // guarded by g_mutex

// After a fork the child has one thread: the one that forked. The parent's pool, whose workers the child does not have
// and cannot join, is left behind; holding the mutex over the fork keeps both sides consistent.
void before_fork() { g_mutex.lock(); }
void after_fork_in_parent() { g_mutex.unlock(); }
void after_fork_in_child() {
    g_pool = nullptr;
    g_mutex.unlock();
}

void register_fork_handlers() {
    [[maybe_unused]] static const int registered =
        pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

struct PoolEnd {
    ~PoolEnd() {
        std::lock_guard lock(g_mutex);
        delete g_pool;
        g_pool = nullptr;
        g_no_more = true;
    }
};
PoolEnd g_pool_end;

int read_num_threads() {
    const char* text = std::getenv("TINYLLM_NUM_THREADS");
    if (text == nullptr) return std::min(available_cores(), kMaxThreads);
    int value = 0;
    const char* end = text + std::strlen(text);
    const auto [parsed, error] = std::from_chars(text, end, value);
    if (error != std::errc{} || parsed != end || value < 1 || value > kMaxThreads)
        fail(TL_STATUS_CONFIG, "TINYLLM_NUM_THREADS = '", text, "'; expected a number of threads from 1 to ",
             kMaxThreads, ", or unset it to use the physical cores");
    return value;
}

}  // namespace

KeepThreadsAwake::KeepThreadsAwake() { g_keep_awake.fetch_add(1); }
KeepThreadsAwake::~KeepThreadsAwake() { g_keep_awake.fetch_sub(1); }

int num_threads() {
    static const int threads = read_num_threads();
    return threads;
}

void parallel_for(int64_t count, int64_t grain, LoopBody body) {
    if (count <= 0) return;
    const int64_t grains = (count + grain - 1) / grain;
    const int64_t shares = std::min<int64_t>(num_threads(), grains);
    const Loop loop{body, count, (grains + shares - 1) / shares * grain};
    if (t_in_loop || loop.num_shares() == 1) return run_alone(loop);
    {
        std::lock_guard lock(g_mutex);
        if (!g_no_more) {
            if (g_pool == nullptr) {
                register_fork_handlers();
                g_pool = new Pool(num_threads());
            }
            return g_pool->run(loop);
        }
    }
    run_alone(loop);
}

}  // namespace tinyllm
