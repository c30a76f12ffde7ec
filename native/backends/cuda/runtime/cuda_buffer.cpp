#include "backends/cuda/runtime/cuda_buffer.h"

#include <cstdlib>
#include <string_view>

#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_scope.h"

namespace tinyllm::cuda {

namespace {

constexpr int kPoison = 0xFF;  // NaN in every float type, -1 in every integer

// Debug mode: a kernel that reads memory nothing wrote gets NaN instead of a lucky zero.
bool poison_allocations() {
    static const bool poison = [] {
        const char* value = std::getenv("TINYLLM_CUDA_POISON");
        return value != nullptr && std::string_view(value) == "1";
    }();
    return poison;
}

[[noreturn]] void throw_out_of_memory(const CudaError& error, size_t bytes, Component component,
                                      const std::string& name, int device) {
    size_t free_bytes = 0, total_bytes = 0;
    TL_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
    fail(TL_STATUS_OUT_OF_MEMORY, "out of GPU memory: ", bytes, " bytes for ", component_name(component), " '", name,
         "', but only ", free_bytes, " of ", total_bytes, " bytes are free on GPU ", device,
         "; use a smaller context or batch, or close what else runs there (", error.what(), ")");
}

}  // namespace

DeviceBlock::DeviceBlock(const MemoryPool& pool, const CudaStream& cuda_stream, size_t bytes, MemoryTracker& tracker,
                         Component component, const std::string& name, const std::source_location& where)
    : device_(cuda_stream.device()), cuda_stream_(cuda_stream.get()), component_(component) {
    if (bytes == 0) return;
    tracker.before_alloc(component, bytes, name);
    try {
        data_ = pool.allocate(bytes, cuda_stream);
    } catch (const CudaError& error) {
        if (error.status() != TL_STATUS_OUT_OF_MEMORY) throw;
        throw_out_of_memory(error, bytes, component, name, device_);
    }
    try {
        if (poison_allocations()) TL_CUDA_CHECK(cudaMemsetAsync(data_, kPoison, bytes, cuda_stream_));
        tracker.on_alloc(component, bytes, data_, name, where);
    } catch (...) {
        release();  // tracker_ is still null: the tracker never heard of this memory
        throw;
    }
    bytes_ = bytes;
    tracker_ = &tracker;
}

void DeviceBlock::swap(DeviceBlock& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(device_, other.device_);
    std::swap(cuda_stream_, other.cuda_stream_);
    std::swap(tracker_, other.tracker_);
    std::swap(component_, other.component_);
}

void DeviceBlock::release() noexcept {
    if (data_ == nullptr) return;
    if (tracker_ != nullptr) tracker_->on_free(component_, bytes_, data_);
    release_on(device_, [this] { TL_CUDA_CHECK_NOTHROW(cudaFreeAsync(data_, cuda_stream_)); });
    data_ = nullptr;
    bytes_ = 0;
}

}  // namespace tinyllm::cuda
