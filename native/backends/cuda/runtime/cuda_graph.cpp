#include "backends/cuda/runtime/cuda_graph.h"

#include <memory>
#include <type_traits>
#include <utility>

#include "backends/cuda/runtime/counters.h"
#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_scope.h"

namespace tinyllm::cuda {

namespace {

struct GraphDestroyer {
    void operator()(cudaGraph_t graph) const noexcept { TL_CUDA_CHECK_NOTHROW(cudaGraphDestroy(graph)); }
};
using GraphTemplate = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, GraphDestroyer>;

// Ends an abandoned capture. CUDA reports the capture as invalidated, which is what is wanted here.
void abandon_capture(const CudaStream& cuda_stream) noexcept {
    cudaGraph_t graph = nullptr;
    static_cast<void>(cudaStreamEndCapture(cuda_stream.get(), &graph));
    static_cast<void>(cudaGetLastError());
    if (graph != nullptr) TL_CUDA_CHECK_NOTHROW(cudaGraphDestroy(graph));
}

GraphTemplate capture(const CudaStream& cuda_stream, const std::function<void()>& body) {
    // Thread-local: CUDA calls of the user's other threads neither disturb the capture nor are forbidden by it.
    TL_CUDA_CHECK(cudaStreamBeginCapture(cuda_stream.get(), cudaStreamCaptureModeThreadLocal));
    try {
        body();
    } catch (...) {
        abandon_capture(cuda_stream);
        throw;
    }
    cudaGraph_t graph = nullptr;
    TL_CUDA_CHECK(cudaStreamEndCapture(cuda_stream.get(), &graph));
    return GraphTemplate(graph);
}

}  // namespace

CudaGraph::CudaGraph(const CudaStream& cuda_stream, const std::function<void()>& body) : device_(cuda_stream.device()) {
    const GraphTemplate graph = capture(cuda_stream, body);
    TL_CUDA_CHECK(cudaGraphInstantiate(&graph_, graph.get(), 0));
    const cudaError_t code = cudaGraphUpload(graph_, cuda_stream.get());
    if (code != cudaSuccess) {
        release();
        throw_cuda_error(code, "cudaGraphUpload", __FILE__, __LINE__);
    }
    ++runtime_counters().graph_captures;
}

CudaGraph::~CudaGraph() { release(); }

CudaGraph::CudaGraph(CudaGraph&& other) noexcept
    : graph_(std::exchange(other.graph_, nullptr)), device_(std::exchange(other.device_, -1)) {}

CudaGraph& CudaGraph::operator=(CudaGraph&& other) noexcept {
    if (this == &other) return *this;
    release();
    graph_ = std::exchange(other.graph_, nullptr);
    device_ = std::exchange(other.device_, -1);
    return *this;
}

void CudaGraph::launch(const CudaStream& cuda_stream) const {
    TL_CUDA_CHECK(cudaGraphLaunch(graph_, cuda_stream.get()));
    ++runtime_counters().graph_launches;
}

void CudaGraph::release() noexcept {
    if (graph_ != nullptr) release_on(device_, [this] { TL_CUDA_CHECK_NOTHROW(cudaGraphExecDestroy(graph_)); });
    graph_ = nullptr;
}

}  // namespace tinyllm::cuda
