#include "backends/cuda/runtime/graph_cache.h"

#include <algorithm>

#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/driver_ledger.h"

namespace tinyllm::cuda {

namespace {

bool same(const StepKey& a, const StepKey& b) {
    return a.phase == b.phase && a.num_rows == b.num_rows && a.max_kv_len == b.max_kv_len && a.greedy == b.greedy &&
           a.penalty == b.penalty;
}

}  // namespace

void GraphCache::run(const StepKey& key, const CudaStream& cuda_stream, const std::function<void()>& body) {
    bool added = false;
    Entry& entry = find_or_add(key, cuda_stream.device(), added);
    if (added) {
        const DriverMeter meter(cuda_stream.device(), DriverUse::Modules);
        try {
            return body();
        } catch (...) {
            entries_.pop_back();  // some kernels may not be loaded yet
            throw;
        }
    }
    if (!entry.graph) {
        try {
            const DriverMeter meter(cuda_stream.device(), DriverUse::Graphs);
            entry.graph.emplace(cuda_stream, body);
        } catch (const CudaError& error) {
            if (error.status() != TL_STATUS_OUT_OF_MEMORY) throw;
            clear(cuda_stream.device());
            return body();
        }
    }
    entry.graph->launch(cuda_stream);
}

void GraphCache::clear(int device) {
    const DriverMeter meter(device, DriverUse::Graphs);
    entries_.clear();
}

GraphCache::Entry& GraphCache::find_or_add(const StepKey& key, int device, bool& added) {
    const auto found =
        std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return same(entry.key, key); });
    added = found == entries_.end();
    if (!added) {
        found->last_use = ++clock_;
        return *found;
    }
    if (entries_.size() == kCapacity) {
        const DriverMeter meter(device, DriverUse::Graphs);
        entries_.erase(std::min_element(entries_.begin(), entries_.end(),
                                        [](const Entry& a, const Entry& b) { return a.last_use < b.last_use; }));
    }
    entries_.push_back({key, std::nullopt, ++clock_});
    return entries_.back();
}

}  // namespace tinyllm::cuda
