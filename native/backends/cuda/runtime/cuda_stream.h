// CudaStream: RAII ownership of a queue on a device.
#pragma once

#include <cuda_runtime_api.h>

namespace tinyllm::cuda {

// Move-only; a moved-from stream holds nothing. Does not synchronise with the legacy default stream. Whatever was
// enqueued still runs after the destructor, which does not wait.
class CudaStream {
public:
    // On the current device. Throws CudaError.
    CudaStream();
    ~CudaStream();
    CudaStream(CudaStream&& other) noexcept;
    CudaStream& operator=(CudaStream&& other) noexcept;

    cudaStream_t get() const noexcept { return stream_; }
    int device() const noexcept { return device_; }
    // Waits until the queue is empty; throws what its work failed with.
    void synchronize() const;

private:
    void release() noexcept;

    cudaStream_t stream_ = nullptr;
    int device_ = -1;
};

}  // namespace tinyllm::cuda
