#include "backends/cuda/runtime/cuda_event.h"

#include <utility>

#include "backends/cuda/runtime/counters.h"
#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_scope.h"

namespace tinyllm::cuda {

CudaEvent::CudaEvent(EventTiming timing) {
    TL_CUDA_CHECK(cudaGetDevice(&device_));
    TL_CUDA_CHECK(
        cudaEventCreateWithFlags(&event_, timing == EventTiming::On ? cudaEventDefault : cudaEventDisableTiming));
}

CudaEvent::~CudaEvent() { release(); }

CudaEvent::CudaEvent(CudaEvent&& other) noexcept
    : event_(std::exchange(other.event_, nullptr)), device_(std::exchange(other.device_, -1)) {}

CudaEvent& CudaEvent::operator=(CudaEvent&& other) noexcept {
    if (this == &other) return *this;
    release();
    event_ = std::exchange(other.event_, nullptr);
    device_ = std::exchange(other.device_, -1);
    return *this;
}

void CudaEvent::record(const CudaStream& cuda_stream) { TL_CUDA_CHECK(cudaEventRecord(event_, cuda_stream.get())); }

void CudaEvent::block(const CudaStream& cuda_stream) const {
    TL_CUDA_CHECK(cudaStreamWaitEvent(cuda_stream.get(), event_, 0));
}

void CudaEvent::synchronize() const {
    ++runtime_counters().synchronizations;
    TL_CUDA_CHECK(cudaEventSynchronize(event_));
}

float CudaEvent::elapsed_ms(const CudaEvent& start) const {
    float milliseconds = 0;
    TL_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, start.event_, event_));
    return milliseconds;
}

void CudaEvent::release() noexcept {
    if (event_ != nullptr) release_on(device_, [this] { TL_CUDA_CHECK_NOTHROW(cudaEventDestroy(event_)); });
    event_ = nullptr;
}

}  // namespace tinyllm::cuda
