// HostTransfer: copies between ordinary host memory and the device by way of pinned memory.
#pragma once

#include <cstddef>

#include "backends/cuda/runtime/cuda_stream.h"
#include "backends/cuda/runtime/pinned_buffer.h"
#include "memory/tracker.h"

namespace tinyllm::cuda {

// Copying from pageable memory would let the driver wait for the device, or stage in its own time. Here an upload
// returns as soon as the data is in the pinned ring, so a decode step costs one copy in, one launch, one copy out and
// one wait. Not thread-safe, as the stream's owner is not.
class HostTransfer {
public:
    // Pinned memory counts as Component::Workspace of `tracker`. Throws CudaError.
    HostTransfer(const CudaStream& cuda_stream, MemoryTracker& tracker);

    // In stream order; `source` may be reused on return.
    void upload(void* target, const void* source, size_t bytes);
    // In stream order; returns when `target` holds the data.
    void download(void* target, const void* source, size_t bytes);
    void synchronize();

private:
    const CudaStream& cuda_stream_;
    PinnedBuffer<std::byte> upload_ring_;
    PinnedBuffer<std::byte> download_;
    size_t upload_used_ = 0;  // bytes at the ring's start that copies in flight may still read
};

}  // namespace tinyllm::cuda
