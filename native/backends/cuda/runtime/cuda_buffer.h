// CudaBuffer<T>: RAII ownership of device memory. Nothing else in tinyllm takes or frees device memory, but for the few
// MB that CodeReserve holds back.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <limits>
#include <source_location>
#include <string>
#include <type_traits>
#include <utility>

#include "backends/cuda/runtime/cuda_stream.h"
#include "backends/cuda/runtime/pool.h"
#include "core/error.h"
#include "memory/tracker.h"

namespace tinyllm::cuda {

// The part of CudaBuffer that does not depend on T. Move-only; a moved-from block is empty.
class DeviceBlock {
public:
    DeviceBlock() noexcept = default;
    // See CudaBuffer.
    DeviceBlock(const MemoryPool& pool, const CudaStream& cuda_stream, size_t bytes, MemoryTracker& tracker,
                Component component, const std::string& name, const std::source_location& where);
    ~DeviceBlock() { release(); }
    DeviceBlock(DeviceBlock&& other) noexcept { swap(other); }
    DeviceBlock& operator=(DeviceBlock&& other) noexcept {
        DeviceBlock moved(std::move(other));
        swap(moved);
        return *this;
    }

    void* data() const noexcept { return data_; }
    size_t bytes() const noexcept { return bytes_; }
    int device() const noexcept { return device_; }
    cudaStream_t cuda_stream() const noexcept { return cuda_stream_; }

private:
    void swap(DeviceBlock& other) noexcept;
    void release() noexcept;

    void* data_ = nullptr;
    size_t bytes_ = 0;
    int device_ = -1;
    cudaStream_t cuda_stream_ = nullptr;
    MemoryTracker* tracker_ = nullptr;
    Component component_ = Component::Workspace;
};

// `size` elements of T on a device.
//
// Memory is taken (cudaMallocAsync) and given back (cudaFreeAsync) in the order of the stream the buffer was made with:
// the destructor neither waits nor frees under the feet of work already enqueued there. Work on any other stream must
// be joined to that stream first. The stream and the tracker must outlive the buffer; the pool need not. There is no
// copy: copying device memory is work on a stream, and is written as such.
template <typename T>
class CudaBuffer {
    static_assert(std::is_trivially_copyable_v<T>, "device memory is copied byte by byte");

public:
    // Empty.
    CudaBuffer() noexcept = default;
    // Contents undefined (0xFF bytes where the environment variable TINYLLM_CUDA_POISON is 1). A size of 0 takes no
    // memory. Throws CudaError; its status is OUT_OF_MEMORY where the device is full.
    CudaBuffer(const MemoryPool& pool, const CudaStream& cuda_stream, size_t size, MemoryTracker& tracker,
               Component component, const std::string& name,
               const std::source_location& where = std::source_location::current())
        : block_(pool, cuda_stream, bytes_of(size, name), tracker, component, name, where), size_(size) {}
    CudaBuffer(CudaBuffer&& other) noexcept : block_(std::move(other.block_)), size_(std::exchange(other.size_, 0)) {}
    CudaBuffer& operator=(CudaBuffer&& other) noexcept {
        block_ = std::move(other.block_);
        size_ = std::exchange(other.size_, 0);
        return *this;
    }

    T* data() const noexcept { return static_cast<T*>(block_.data()); }
    size_t size() const noexcept { return size_; }
    size_t bytes() const noexcept { return block_.bytes(); }
    int device() const noexcept { return block_.device(); }
    cudaStream_t cuda_stream() const noexcept { return block_.cuda_stream(); }

private:
    static size_t bytes_of(size_t size, const std::string& name) {
        if (size > std::numeric_limits<size_t>::max() / sizeof(T))
            fail(TL_STATUS_OUT_OF_MEMORY, "'", name, "' would have ", size, " elements of ", sizeof(T), " bytes");
        return size * sizeof(T);
    }

    DeviceBlock block_;
    size_t size_ = 0;
};

}  // namespace tinyllm::cuda
