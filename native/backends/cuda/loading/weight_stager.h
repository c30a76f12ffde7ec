// WeightStager: brings checkpoint tensors from host memory into packed weights.
#pragma once

#include <cstddef>
#include <vector>

#include "backends/cuda/loading/load_block_quantizer.h"
#include "backends/cuda/runtime/cuda_buffer.h"
#include "backends/cuda/runtime/cuda_event.h"
#include "backends/cuda/runtime/cuda_stream.h"
#include "backends/cuda/runtime/host_transfer.h"
#include "backends/cuda/runtime/pinned_buffer.h"
#include "backends/cuda/runtime/pool.h"
#include "core/parallel.h"
#include "memory/tracker.h"
#include "ops/backend.h"

namespace tinyllm::cuda {

// A tensor passes through kLoadBlocks load blocks in turn, each a pinned buffer and a device buffer. While the host
// copies load block i into its pinned buffer, load block i - 1 crosses the PCIe link and load block i - 2 is quantised
// (LoadBlockQuantizer), so loading takes the slowest of the three, not their sum. Holds its buffers for as long as it
// lives: page-locking memory costs milliseconds.
class WeightStager {
public:
    // All memory counts as Component::Staging of `tracker`, which must outlive this object, as must the
    // others. Throws CudaError.
    WeightStager(const MemoryPool& pool, const CudaStream& cuda_stream, HostTransfer& transfer, MemoryTracker& tracker);
    ~WeightStager();
    WeightStager(const WeightStager&) = delete;
    WeightStager& operator=(const WeightStager&) = delete;

    // See Backend::load_linear. Enqueues on the stream of the constructor and on one of its own; both are idle on
    // return.
    int64_t load(const LinearWeight& weight, const RowMap& rows, const HostTensor& tensor, const LinearLoad& load);

private:
    struct LoadBlock {
        PinnedBuffer<std::byte> host;
        CudaBuffer<std::byte> device;
        CudaEvent copied;     // the device buffer holds the load block; the host buffer is free
        CudaEvent quantized;  // the device buffer is free
    };

    // Copies `bytes` of rows to the load block's device buffer.
    void stage(LoadBlock& load_block, const void* rows, size_t bytes);

    const CudaStream& cuda_stream_;
    CudaStream copy_stream_;
    std::vector<LoadBlock> load_blocks_;
    LoadBlockQuantizer quantizer_;
    KeepThreadsAwake keep_awake_;  // the host waits for the device, or for the next tensor, between its copies
};

}  // namespace tinyllm::cuda
