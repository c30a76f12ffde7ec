// MemoryPool: the stream-ordered allocator that all device memory of an engine comes from.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "backends/cuda/runtime/cuda_stream.h"

namespace tinyllm::cuda {

// A pool of our own, so that another user of the process (a framework, a second engine) neither sees nor trims it, and
// so that destroying it gives everything back. Its release threshold is unlimited: with the default of 0 each
// synchronisation would hand unused memory to the driver, and the next allocation would map it again (measured:
// 87 us per pair). Not movable: buffers remember where their pool lives.
class MemoryPool {
public:
    // On the current device. Throws CudaError.
    MemoryPool();
    // Memory still allocated stays valid and goes back when it is freed.
    ~MemoryPool();
    MemoryPool(const MemoryPool&) = delete;
    MemoryPool& operator=(const MemoryPool&) = delete;

    // Usable by work enqueued on `cuda_stream` from now on; contents undefined. Throws CudaError.
    void* allocate(size_t bytes, const CudaStream& cuda_stream) const;
    // Gives what is unused and no longer in flight back to the driver.
    void trim();

    // Bytes that the pool holds from the driver, and those of them that are allocated. The difference is rounding
    // (the driver gives kPoolStep at a time, staging_bytes.h) and memory kept for later.
    uint64_t reserved_bytes() const;
    uint64_t used_bytes() const;

private:
    uint64_t attribute(cudaMemPoolAttr name) const;

    cudaMemPool_t pool_ = nullptr;
    int device_ = -1;
};

}  // namespace tinyllm::cuda
