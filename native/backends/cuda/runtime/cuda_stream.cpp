#include "backends/cuda/runtime/cuda_stream.h"

#include <utility>

#include "backends/cuda/runtime/counters.h"
#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_scope.h"
#include "backends/cuda/runtime/process_exit.h"

namespace tinyllm::cuda {

CudaStream::CudaStream() {
    TL_CUDA_CHECK(cudaGetDevice(&device_));
    TL_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    watch_process_exit();
}

CudaStream::~CudaStream() { release(); }

CudaStream::CudaStream(CudaStream&& other) noexcept
    : stream_(std::exchange(other.stream_, nullptr)), device_(std::exchange(other.device_, -1)) {}

CudaStream& CudaStream::operator=(CudaStream&& other) noexcept {
    if (this == &other) return *this;
    release();
    stream_ = std::exchange(other.stream_, nullptr);
    device_ = std::exchange(other.device_, -1);
    return *this;
}

void CudaStream::synchronize() const {
    ++runtime_counters().synchronizations;
    TL_CUDA_CHECK(cudaStreamSynchronize(stream_));
}

void CudaStream::release() noexcept {
    if (stream_ != nullptr) release_on(device_, [this] { TL_CUDA_CHECK_NOTHROW(cudaStreamDestroy(stream_)); });
    stream_ = nullptr;
}

}  // namespace tinyllm::cuda
