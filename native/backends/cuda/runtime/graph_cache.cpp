#include "backends/cuda/runtime/graph_cache.h"

#include <algorithm>
#include <numeric>

#include "backends/cuda/runtime/cuda_check.h"

namespace tinyllm {

namespace {

bool same(const StepKey& a, const StepKey& b) {
    return a.phase == b.phase && a.num_rows == b.num_rows && a.max_kv_len == b.max_kv_len && a.greedy == b.greedy &&
           a.penalty == b.penalty;
}

uint64_t free_device_bytes() {
    size_t free_bytes = 0, total_bytes = 0;
    TL_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
    return free_bytes;
}

}  // namespace

void GraphCache::run(const StepKey& key, const CudaStream& cuda_stream, const std::function<void()>& body) {
    bool added = false;
    Entry& entry = find_or_add(key, added);
    if (added) return body();
    if (!entry.graph) {
        try {
            const uint64_t free_before = free_device_bytes();
            entry.graph.emplace(cuda_stream, body);
            const uint64_t free_after = free_device_bytes();
            entry.device_bytes = free_before > free_after ? free_before - free_after : 0;
        } catch (const CudaError& error) {
            if (error.status() != TL_STATUS_OUT_OF_MEMORY) throw;
            clear();
            return body();
        }
    }
    entry.graph->launch(cuda_stream);
}

uint64_t GraphCache::device_bytes() const {
    return std::accumulate(entries_.begin(), entries_.end(), uint64_t{0},
                           [](uint64_t sum, const Entry& entry) { return sum + entry.device_bytes; });
}

GraphCache::Entry& GraphCache::find_or_add(const StepKey& key, bool& added) {
    const auto found =
        std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return same(entry.key, key); });
    added = found == entries_.end();
    if (!added) {
        found->last_use = ++clock_;
        return *found;
    }
    if (entries_.size() == kCapacity)
        entries_.erase(std::min_element(entries_.begin(), entries_.end(),
                                        [](const Entry& a, const Entry& b) { return a.last_use < b.last_use; }));
    entries_.push_back({key, std::nullopt, 0, ++clock_});
    return entries_.back();
}

}  // namespace tinyllm
