// GraphCache: the captured decode steps of one engine, the least recently used of which make room for new ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "backends/cuda/runtime/cuda_graph.h"
#include "backends/cuda/runtime/cuda_stream.h"
#include "ops/backend.h"

namespace tinyllm::cuda {

class GraphCache {
public:
    // Keys kept at most. A key is a batch bucket times a context bucket, so this covers several of each; a graph of a
    // few hundred launches takes some hundred kilobytes of device memory.
    static constexpr size_t kCapacity = 32;

    // Runs the step `key`. The first time a key is seen `body` runs as it is: that loads the kernels it needs, which a
    // capture must not do, and spares keys that never come back the cost of a graph. The second time it is captured,
    // and from then on replayed. Where the device has no memory left for a graph, all graphs are dropped and `body`
    // runs as it is. What kernels and graphs take is booked in the device's DriverLedger.
    void run(const StepKey& key, const CudaStream& cuda_stream, const std::function<void()>& body);

    // Drops all graphs: the pointers that they captured are no longer valid. `device` is current, and that of `run`.
    void clear(int device);

private:
    struct Entry {
        StepKey key;
        std::optional<CudaGraph> graph;  // none until the second run
        uint64_t last_use = 0;
    };

    Entry& find_or_add(const StepKey& key, int device, bool& added);

    std::vector<Entry> entries_;
    uint64_t clock_ = 0;
};

}  // namespace tinyllm::cuda
