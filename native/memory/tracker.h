// MemoryTracker: who holds how many bytes, at any time.
//
// Every allocation of an engine, on host or device, reports here with its component. The counts are always on; the
// record of each live allocation (name, file, line) exists only where the build defines CUDA_MEMORY_TRACKING.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <source_location>
#include <string>
#include <unordered_map>
#include <vector>

namespace tinyllm {

enum class Component : int32_t {
    Weights,      // int8 (or 16-bit) matrices of linear layers
    Scales,       // fp16 group scales
    Embedding,    // embedding table where it is not the output matrix
    Norms,        // norm weights, biases, RoPE frequencies: float32
    KvCache,      // the page pool
    Activations,  // buffers of one forward pass
    Logits,       // float32 rows of the vocabulary
    Workspace,    // step descriptors, sampler state, kernels' scratch
    Staging,      // transient: only while loading
    Count
};
constexpr int kNumComponents = static_cast<int>(Component::Count);
const char* component_name(Component component);

struct ComponentStats {
    uint64_t current_bytes = 0;
    uint64_t peak_bytes = 0;
    uint64_t total_bytes = 0;  // sum of all allocations ever made
    uint64_t live_count = 0;
    uint64_t total_count = 0;
};

struct AllocationRecord {
    Component component;
    std::string name;
    std::string file;
    int line;
    uint64_t bytes;
};

class MemoryTracker {
public:
    MemoryTracker() = default;
    ~MemoryTracker();
    MemoryTracker(const MemoryTracker&) = delete;
    MemoryTracker& operator=(const MemoryTracker&) = delete;

    // Called before memory is taken: throws OutOfMemory where the test hook says that this allocation fails.
    void before_alloc(Component component, uint64_t bytes, const std::string& name);
    // Called once memory is held. `id` (an address) names the allocation until on_free.
    void on_alloc(Component component, uint64_t bytes, const void* id, const std::string& name,
                  const std::source_location& where);
    void on_free(Component component, uint64_t bytes, const void* id) noexcept;

    ComponentStats stats(Component component) const;
    ComponentStats total() const;                // peak is the peak of the sum, not the sum of peaks
    std::vector<AllocationRecord> live() const;  // empty unless built with CUDA_MEMORY_TRACKING
    // One line per live allocation; "" if there is none. The destructor writes it to standard error.
    std::string leak_report() const;

    static void fail_after(int64_t countdown);  // test hook, see tl_debug_fail_allocation
    static uint64_t live_bytes_in_process();

private:
    mutable std::mutex mutex_;
    std::array<ComponentStats, kNumComponents> stats_{};
    ComponentStats total_{};
#ifdef CUDA_MEMORY_TRACKING
    std::unordered_map<const void*, AllocationRecord> records_;
#endif
};

}  // namespace tinyllm
