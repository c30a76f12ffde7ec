// WeightStager: brings checkpoint tensors from host memory into packed weights.
#pragma once

#include <cstddef>
#include <vector>

#include "backends/cuda/runtime/cuda_buffer.h"
#include "backends/cuda/runtime/cuda_event.h"
#include "backends/cuda/runtime/cuda_stream.h"
#include "backends/cuda/runtime/pinned_buffer.h"
#include "backends/cuda/runtime/pool.h"
#include "memory/tracker.h"
#include "ops/backend.h"

namespace tinyllm {

// A tensor passes in slabs, rows and behind them their scales, through a ring of slots, each a pinned buffer and a
// device buffer. While the host copies slab i into its pinned buffer, slab i - 1 crosses the PCIe link and slab i - 2
// is quantised, so loading takes the slowest of the three, not their sum. Holds its buffers for as long as it lives:
// page-locking memory costs milliseconds.
class WeightStager {
public:
    // All memory counts as Component::Staging of `tracker`, which must outlive this object, as must `pool` and
    // `cuda_stream`. Throws CudaError.
    WeightStager(const MemoryPool& pool, const CudaStream& cuda_stream, MemoryTracker& tracker);
    ~WeightStager();
    WeightStager(const WeightStager&) = delete;
    WeightStager& operator=(const WeightStager&) = delete;

    // See Backend::load_linear. Enqueues on the stream of the constructor and on one of its own; both are idle on
    // return.
    int64_t load(const LinearWeight& weight, const RowMap& rows, const HostTensor& tensor, const f16* scales);

private:
    struct Slot {
        PinnedBuffer<std::byte> host;
        CudaBuffer<std::byte> device;
        CudaEvent copied;     // the device buffer holds the slab; the host buffer is free
        CudaEvent quantized;  // the device buffer is free
    };

    // Copies `bytes` of rows, and behind them their scales (none if scale_bytes is 0), to the slot's device buffer.
    void stage(Slot& slot, const void* rows, size_t bytes, const void* scales, size_t scale_bytes);

    const CudaStream& cuda_stream_;
    CudaStream copy_stream_;
    std::vector<Slot> slots_;
    PinnedBuffer<unsigned long long> first_bad_host_;
    CudaBuffer<unsigned long long> first_bad_;
};

}  // namespace tinyllm
