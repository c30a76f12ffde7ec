#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "backends/cpu/simd/isa.h"
#include "bench/ceilings/ceilings.h"
#include "bench/ceilings/multiply_adds.h"
#include "core/parallel.h"
#include "memory/allocation.h"
#include "memory/tracker.h"

namespace tinyllm::bench {

namespace {

constexpr size_t kReadBytes = 1024ull << 20;
constexpr int kRepeats = 5;
constexpr int64_t kRounds = 2'000'000;

template <typename Body>
double best_seconds(const Body& body) {
    double best = 1e30;
    for (int i = 0; i < kRepeats; ++i) {
        const auto start = std::chrono::steady_clock::now();
        body();
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
}

// The multiply-add that the linear layers use. (vdpbf16ps makes no more products per second on the processors we
// measured.)
auto multiply_adds() {
#if defined(__x86_64__)
    const cpu::CpuIsa isa = cpu::detected_isa();
    if (isa >= cpu::CpuIsa::Avx512) return multiply_adds_avx512;
    if (isa == cpu::CpuIsa::Avx2) return multiply_adds_avx2;
#endif
    return multiply_adds_portable;
}

double read_bandwidth() {
    MemoryTracker tracker;
    HostBuffer block(tracker, Component::Workspace, kReadBytes, "read bandwidth");
    auto* words = static_cast<uint64_t*>(block.data());
    constexpr int64_t kCount = kReadBytes / sizeof(uint64_t);
    constexpr int64_t kGrain = 4096;
    parallel_for(kCount, kGrain, [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) words[i] = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15ull;
    });
    std::atomic<uint64_t> total{0};
    const double seconds = best_seconds([&] {
        parallel_for(kCount, kGrain, [&](int, int64_t begin, int64_t end) {
            uint64_t sum = 0;
            for (int64_t i = begin; i < end; ++i) sum += words[i];
            total += sum;  // keeps the reads
        });
    });
    return kReadBytes / seconds;
}

double matrix_rate() {
    const auto work = multiply_adds();
    std::atomic<double> operations{0};
    std::atomic<float> sink{0};
    const double seconds = best_seconds([&] {
        operations = 0;
        parallel_for(num_threads(), 1, [&](int, int64_t begin, int64_t end) {
            float value = 1.0f;
            for (int64_t i = begin; i < end; ++i) operations += work(kRounds, value);
            sink += value;
        });
    });
    return operations / seconds;
}

}  // namespace

Ceilings cpu_ceilings() { return {read_bandwidth(), matrix_rate()}; }

double multiply_adds_portable(int64_t rounds, float& sink) {
    constexpr int kChains = 16;
    float chains[kChains];
    for (int c = 0; c < kChains; ++c) chains[c] = sink + static_cast<float>(c);
    const float scale = 0.999f, step = sink * 1e-3f;
    for (int64_t i = 0; i < rounds; ++i)
        for (int c = 0; c < kChains; ++c) chains[c] = chains[c] * scale + step;
    for (const float chain : chains) sink += chain;
    return 2.0 * kChains * static_cast<double>(rounds);
}

}  // namespace tinyllm::bench
