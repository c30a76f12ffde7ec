// The tracker: counts, peaks, injected failures, and the leak report of builds with CUDA_MEMORY_TRACKING.
#include <memory>
#include <optional>

#include "check.h"
#include "core/error.h"
#include "memory/allocation.h"

using namespace tinyllm;

// AddressSanitizer asks this function for its options: a request for too much memory shall fail as it does without it.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

TEST(counts_follow_buffers) {
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

TEST(buffers_are_aligned_and_may_be_empty) {
    MemoryTracker tracker;
    const HostBuffer odd(tracker, Component::Workspace, 1, "odd");
    CHECK(reinterpret_cast<uintptr_t>(odd.data()) % 64 == 0);
    const HostBuffer empty(tracker, Component::Workspace, 0, "empty");
    CHECK(empty.data() == nullptr);
    CHECK(tracker.total().live_count == 1);
}

TEST(too_much_memory_is_an_error_that_leaves_nothing) {
    MemoryTracker tracker;
    CHECK_THROWS(HostBuffer(tracker, Component::KvCache, SIZE_MAX - 10, "huge"), "out of host memory");
    CHECK_THROWS(HostBuffer(tracker, Component::KvCache, size_t{1} << 60, "huge"), "kv_cache 'huge'");
    CHECK(tracker.total().current_bytes == 0);
}

TEST(the_chosen_allocation_fails_once) {
    MemoryTracker tracker;
    MemoryTracker::fail_after(2);
    const HostBuffer first(tracker, Component::Norms, 8, "first");
    CHECK_THROWS(HostBuffer(tracker, Component::Norms, 8, "second"), "injected");
    const HostBuffer third(tracker, Component::Norms, 8, "third");
    CHECK(tracker.total().current_bytes == 16);
}

TEST(a_leak_is_reported_with_its_line) {
    MemoryTracker tracker;
    auto leaked = std::make_unique<HostBuffer>(tracker, Component::Scales, 77, "planted");
    const std::string report = tracker.leak_report();
#ifdef CUDA_MEMORY_TRACKING
    CHECK(report.find("77 bytes of scales 'planted' allocated at ") != std::string::npos);
    CHECK(tracker.live().size() == 1);
    CHECK(tracker.live()[0].line > 0);
#else
    CHECK(report.empty());
#endif
    leaked.reset();
    CHECK(tracker.leak_report().empty());
}

TEST_MAIN()
