#include "memory/tracker.h"

#include <algorithm>
#include <atomic>
#include <cstdio>

#include "core/error.h"

namespace tinyllm {

namespace {

std::atomic<int64_t> g_fail_countdown{0};
std::atomic<uint64_t> g_live_bytes{0};

void add(ComponentStats& stats, uint64_t bytes) {
    stats.current_bytes += bytes;
    stats.peak_bytes = std::max(stats.peak_bytes, stats.current_bytes);
    stats.total_bytes += bytes;
    ++stats.live_count;
    ++stats.total_count;
}

void remove(ComponentStats& stats, uint64_t bytes) {
    stats.current_bytes -= bytes;
    --stats.live_count;
}

}  // namespace

const char* component_name(Component component) {
    switch (component) {
        case Component::Weights:
            return "weights";
        case Component::Scales:
            return "scales";
        case Component::Embedding:
            return "embedding";
        case Component::Norms:
            return "norms";
        case Component::KvCache:
            return "kv_cache";
        case Component::Activations:
            return "activations";
        case Component::Logits:
            return "logits";
        case Component::Workspace:
            return "workspace";
        case Component::Staging:
            return "staging";
        case Component::Count:
            break;
    }
    return "?";
}

MemoryTracker::~MemoryTracker() {
    const std::string leaks = leak_report();
    if (!leaks.empty()) std::fputs(leaks.c_str(), stderr);
    // What is still live here has outlived its engine; it no longer counts for the process.
    g_live_bytes -= total_.current_bytes;
}

void MemoryTracker::before_alloc(Component component, uint64_t bytes, const std::string& name) {
    int64_t left = g_fail_countdown.load();
    while (left > 0 && !g_fail_countdown.compare_exchange_weak(left, left - 1)) {
    }
    if (left == 1)
        fail(TL_STATUS_OUT_OF_MEMORY, "out of memory (injected by the test hook): ", bytes, " bytes for ",
             component_name(component), " '", name, "'");
}

void MemoryTracker::on_alloc(Component component, uint64_t bytes, [[maybe_unused]] const void* id,
                             [[maybe_unused]] const std::string& name,
                             [[maybe_unused]] const std::source_location& where) {
    std::lock_guard lock(mutex_);
#ifdef CUDA_MEMORY_TRACKING
    records_[id] = {component, name, where.file_name(), static_cast<int>(where.line()), bytes};
#endif
    add(stats_[static_cast<int>(component)], bytes);
    add(total_, bytes);
    g_live_bytes += bytes;
}

void MemoryTracker::on_free(Component component, uint64_t bytes, [[maybe_unused]] const void* id) noexcept {
    std::lock_guard lock(mutex_);
#ifdef CUDA_MEMORY_TRACKING
    records_.erase(id);
#endif
    remove(stats_[static_cast<int>(component)], bytes);
    remove(total_, bytes);
    g_live_bytes -= bytes;
}

ComponentStats MemoryTracker::stats(Component component) const {
    std::lock_guard lock(mutex_);
    return stats_[static_cast<int>(component)];
}

ComponentStats MemoryTracker::total() const {
    std::lock_guard lock(mutex_);
    return total_;
}

std::vector<AllocationRecord> MemoryTracker::live() const {
    std::vector<AllocationRecord> out;
#ifdef CUDA_MEMORY_TRACKING
    std::lock_guard lock(mutex_);
    out.reserve(records_.size());
    for (const auto& [id, record] : records_) out.push_back(record);
#endif
    return out;
}

std::string MemoryTracker::leak_report() const {
    std::string report;
    for (const AllocationRecord& record : live())
        report += concat("tinyllm: leak: ", record.bytes, " bytes of ", component_name(record.component), " '",
                         record.name, "' allocated at ", record.file, ":", record.line, "\n");
    return report;
}

void MemoryTracker::fail_after(int64_t countdown) { g_fail_countdown = countdown; }

uint64_t MemoryTracker::live_bytes_in_process() { return g_live_bytes; }

}  // namespace tinyllm
