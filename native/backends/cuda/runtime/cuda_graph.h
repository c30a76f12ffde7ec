// CudaGraph: a captured sequence of launches that is replayed with one call.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

#include "backends/cuda/runtime/cuda_stream.h"

namespace tinyllm::cuda {

// Move-only. The captured pointers must stay valid for as long as the graph is launched.
class CudaGraph {
public:
    // Captures what `body` enqueues on `cuda_stream` (nothing runs), instantiates it and uploads it to the device, so
    // that the first launch costs what the others cost. `body` must not allocate, copy from pageable memory or
    // synchronise. If it throws, the capture is abandoned and the stream works as before. Throws CudaError.
    CudaGraph(const CudaStream& cuda_stream, const std::function<void()>& body);
    ~CudaGraph();
    CudaGraph(CudaGraph&& other) noexcept;
    CudaGraph& operator=(CudaGraph&& other) noexcept;

    // Enqueues the captured work.
    void launch(const CudaStream& cuda_stream) const;

private:
    void release() noexcept;

    cudaGraphExec_t graph_ = nullptr;
    int device_ = -1;
};

}  // namespace tinyllm::cuda
