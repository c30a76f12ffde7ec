// After a sticky error (here: a kernel that traps) everything fails at once and clearly, and nothing hangs or crashes.
// A program of its own, because the error stays with the process.
#include <cstring>
#include <memory>

#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/cuda_stream.h"
#include "backends/cuda/runtime/device_info.h"
#include "backends/cuda/runtime/device_scope.h"
#include "cuda/cuda_test.h"

namespace tinyllm {

using namespace cuda;

namespace {

__global__ void trap_kernel() { __trap(); }

}  // namespace

TEST(a_sticky_error_breaks_the_device_for_good) {
    MemoryTracker tracker;
    const std::unique_ptr<Backend> backend = cuda::make_backend(0);
    {
        const AllocationPtr memory = backend->allocate(tracker, Component::Workspace, 1 << 20, "test");
        backend->synchronize();
        {
            const DeviceScope scope(0);
            const CudaStream cuda_stream;
            trap_kernel<<<1, 1, 0, cuda_stream.get()>>>();
            TL_CUDA_CHECK_LAUNCH("trap_kernel");
            CHECK_THROWS(cuda_stream.synchronize(), "from cudaStreamSynchronize");
        }
        const char* const words = "GPU 0 cannot be used any more";
        CHECK_THROWS(backend->synchronize(), words);
        CHECK_THROWS(backend->fill_zero(memory->data(), memory->bytes()), words);
        CHECK_THROWS(backend->allocate(tracker, Component::Workspace, 16, "more"), words);
        CHECK_THROWS(backend->run_step({}, [] {}), words);
    }
    CHECK(tracker.total().current_bytes == 0);
    CHECK_THROWS(cuda::make_backend(0), "GPU 0 cannot be used any more");
    const std::vector<tl_device_info> devices = query_cuda_devices();
    CHECK(!devices.empty() && devices.front().usable == 0);
    CHECK(std::strstr(devices.front().description, "start a new process") != nullptr);
}

}  // namespace tinyllm

CUDA_TEST_MAIN()
