#include "backends/cuda/runtime/pinned_buffer.h"

#include "backends/cuda/runtime/counters.h"
#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_scope.h"

namespace tinyllm::cuda {

PinnedBlock::PinnedBlock(MemoryTracker& tracker, Component component, size_t bytes, const std::string& name,
                         const std::source_location& where)
    : tracker_(tracker), component_(component) {
    if (bytes == 0) return;
    tracker.before_alloc(component, bytes, name);
    TL_CUDA_CHECK(cudaGetDevice(&device_));
    TL_CUDA_CHECK(cudaHostAlloc(&data_, bytes, cudaHostAllocDefault));
    ++runtime_counters().allocations;
    try {
        tracker.on_alloc(component, bytes, data_, name, where);
    } catch (...) {
        TL_CUDA_CHECK_NOTHROW(cudaFreeHost(data_));
        throw;
    }
    bytes_ = bytes;
}

PinnedBlock::~PinnedBlock() {
    if (data_ == nullptr) return;
    tracker_.on_free(component_, bytes_, data_);
    release_on(device_, [this] { TL_CUDA_CHECK_NOTHROW(cudaFreeHost(data_)); });
}

}  // namespace tinyllm::cuda
