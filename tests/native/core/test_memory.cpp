// The tracker: counts, peaks, injected failures, and the leak report of builds with CUDA_MEMORY_TRACKING.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>

#include "check.h"
#include "core/error.h"
#include "memory/allocation.h"

using namespace tinyllm;

// AddressSanitizer asks this function for its options: a request for too much memory shall fail as it does without it.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

TEST_CASE("counts follow buffers") {
    MemoryTracker tracker;
    {
        HostBuffer first(tracker, Component::Weights, 100, "first");
        std::optional<HostBuffer> second(std::in_place, tracker, Component::Weights, 50, "second");
        CHECK(tracker.stats(Component::Weights).current_bytes == 150);
        second.reset();
        HostBuffer third(tracker, Component::Logits, 20, "third");
        CHECK(tracker.stats(Component::Weights).current_bytes == 100);
        CHECK(tracker.stats(Component::Weights).peak_bytes == 150);
        CHECK(tracker.stats(Component::Weights).total_bytes == 150);
        CHECK(tracker.stats(Component::Weights).live_count == 1);
        CHECK(tracker.stats(Component::Weights).total_count == 2);
        CHECK(tracker.total().current_bytes == 120);
        CHECK(tracker.total().peak_bytes == 150);  // of the sum, not the sum of the peaks
    }
    CHECK(tracker.total().current_bytes == 0);
    CHECK(tracker.total().live_count == 0);
}

TEST_CASE("buffers are aligned and may be empty") {
    MemoryTracker tracker;
    const HostBuffer odd(tracker, Component::Workspace, 1, "odd");
    CHECK(reinterpret_cast<uintptr_t>(odd.data()) % 64 == 0);
    const HostBuffer empty(tracker, Component::Workspace, 0, "empty");
    CHECK(empty.data() == nullptr);
    CHECK(tracker.total().live_count == 1);
}

TEST_CASE("too much memory is an error that leaves nothing") {
    MemoryTracker tracker;
    CHECK_THROWS_WITH(HostBuffer(tracker, Component::KvCache, SIZE_MAX - 10, "huge"),
                      doctest::Contains("out of host memory"));
    CHECK_THROWS_WITH(HostBuffer(tracker, Component::KvCache, size_t{1} << 60, "huge"),
                      doctest::Contains("kv_cache 'huge'"));
    CHECK(tracker.total().current_bytes == 0);
}

TEST_CASE("what nothing has written is counted") {
    MemoryTracker tracker;
    constexpr size_t kMegabyte = size_t{1} << 20;
    const uint64_t before = untouched_host_bytes();
    {
        const HostBuffer cache(tracker, Component::KvCache, 64 * kMegabyte + 5, "cache");
        CHECK(reinterpret_cast<uintptr_t>(cache.data()) % 64 == 0);
        const uint64_t fresh = untouched_host_bytes() - before;
#if defined(__SANITIZE_ADDRESS__)
        CHECK(fresh == 0);  // all blocks are the heap's there
#else
        constexpr size_t kSlack = 64 << 10;  // what is counted are pages, which may be large
        CHECK(fresh >= 64 * kMegabyte);
        CHECK(fresh <= 64 * kMegabyte + kSlack);
        std::memset(static_cast<char*>(cache.data()) + 8 * kMegabyte, 1, 32 * kMegabyte);
        const uint64_t left = untouched_host_bytes() - before;
        CHECK(left <= 32 * kMegabyte + kSlack);
        CHECK(left >= 28 * kMegabyte);
#endif
    }
    CHECK(untouched_host_bytes() == before);
}

TEST_CASE("the chosen allocation fails once") {
    MemoryTracker tracker;
    MemoryTracker::fail_after(2);
    const HostBuffer first(tracker, Component::Norms, 8, "first");
    CHECK_THROWS_WITH(HostBuffer(tracker, Component::Norms, 8, "second"), doctest::Contains("injected"));
    const HostBuffer third(tracker, Component::Norms, 8, "third");
    CHECK(tracker.total().current_bytes == 16);
}

TEST_CASE("a leak is reported with its line") {
    MemoryTracker tracker;
    [[maybe_unused]] const int line = __LINE__ + 1;
    std::unique_ptr<HostBuffer> leaked(new HostBuffer(tracker, Component::Scales, 77, "planted"));
    const std::string report = tracker.leak_report();
#ifdef CUDA_MEMORY_TRACKING
    CHECK(report == concat("tinyllm: leak: 77 bytes of scales 'planted' allocated at ", __FILE__, ":", line, "\n"));
    CHECK(tracker.live().size() == 1);
    CHECK(tracker.live()[0].line == line);
#else
    CHECK(report.empty());  // such builds keep no records,
    CHECK(tracker.live().empty());
    CHECK(tracker.stats(Component::Scales).current_bytes == 77);  // but count
#endif
    leaked.reset();
    CHECK(tracker.leak_report().empty());
}

TEST_CASE("closing reports what is still alive") {
    // An engine's tracker goes last; whatever it still knows of then has leaked.
    std::FILE* const captured = std::tmpfile();
    std::fflush(stderr);
    const int real_stderr = dup(STDERR_FILENO);
    dup2(fileno(captured), STDERR_FILENO);
    {
        MemoryTracker tracker;
        tracker.on_alloc(Component::KvCache, 4096, &tracker, "planted", std::source_location::current());
    }
    std::fflush(stderr);
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    std::rewind(captured);
    char text[512] = {};
    const size_t length = std::fread(text, 1, sizeof text - 1, captured);
    std::fclose(captured);
#ifdef CUDA_MEMORY_TRACKING
    CHECK(std::string(text, length).starts_with("tinyllm: leak: 4096 bytes of kv_cache 'planted' allocated at "));
#else
    CHECK(length == 0);
#endif
    CHECK(MemoryTracker::live_bytes_in_process() == 0);
}
