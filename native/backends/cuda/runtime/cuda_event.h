// CudaEvent: RAII ownership of a mark in a stream.
#pragma once

#include <cuda_runtime_api.h>

#include "backends/cuda/runtime/cuda_stream.h"

namespace tinyllm::cuda {

enum class EventTiming { Off, On };

// Move-only. An event that was never recorded counts as reached.
class CudaEvent {
public:
    // On the current device. Throws CudaError.
    explicit CudaEvent(EventTiming timing);
    ~CudaEvent();
    CudaEvent(CudaEvent&& other) noexcept;
    CudaEvent& operator=(CudaEvent&& other) noexcept;

    void record(const CudaStream& cuda_stream);
    // Makes what is enqueued on `cuda_stream` from now on wait for this event.
    void block(const CudaStream& cuda_stream) const;
    // Waits on the host.
    void synchronize() const;
    // Milliseconds from `start` to this event; both with timing, recorded and reached.
    float elapsed_ms(const CudaEvent& start) const;

private:
    void release() noexcept;

    cudaEvent_t event_ = nullptr;
    int device_ = -1;
};

}  // namespace tinyllm::cuda
