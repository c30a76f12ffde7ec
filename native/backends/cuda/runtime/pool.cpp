#include "backends/cuda/runtime/pool.h"

#include "backends/cuda/runtime/counters.h"
#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_scope.h"
#include "backends/cuda/runtime/driver_ledger.h"

namespace tinyllm::cuda {

MemoryPool::MemoryPool() {
    TL_CUDA_CHECK(cudaGetDevice(&device_));
    cudaMemPoolProps properties = {};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device_;
    TL_CUDA_CHECK(cudaMemPoolCreate(&pool_, &properties));
    uint64_t threshold = UINT64_MAX;
    const cudaError_t code = cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &threshold);
    if (code != cudaSuccess) {
        TL_CUDA_CHECK_NOTHROW(cudaMemPoolDestroy(pool_));
        throw_cuda_error(code, "cudaMemPoolSetAttribute(release threshold)", __FILE__, __LINE__);
    }
    DriverLedger::of(device_).add(*this, device_);
}

MemoryPool::~MemoryPool() {
    DriverLedger::of(device_).remove(*this, device_);
    release_on(device_, [this] { TL_CUDA_CHECK_NOTHROW(cudaMemPoolDestroy(pool_)); });
}

void* MemoryPool::allocate(size_t bytes, const CudaStream& cuda_stream) const {
    void* data = nullptr;
    TL_CUDA_CHECK(cudaMallocFromPoolAsync(&data, bytes, pool_, cuda_stream.get()));
    ++runtime_counters().allocations;
    return data;
}

void MemoryPool::trim() { TL_CUDA_CHECK(cudaMemPoolTrimTo(pool_, 0)); }

uint64_t MemoryPool::reserved_bytes() const { return attribute(cudaMemPoolAttrReservedMemCurrent); }

uint64_t MemoryPool::used_bytes() const { return attribute(cudaMemPoolAttrUsedMemCurrent); }

uint64_t MemoryPool::attribute(cudaMemPoolAttr name) const {
    uint64_t value = 0;
    TL_CUDA_CHECK(cudaMemPoolGetAttribute(pool_, name, &value));
    return value;
}

}  // namespace tinyllm::cuda
