// After a sticky error (here: a kernel that traps) everything fails at once and clearly, and nothing hangs or crashes.
// A program of its own, because the error stays with the process.
#include <cstring>
#include <memory>

#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/cuda_stream.h"
#include "backends/cuda/runtime/device_info.h"
#include "backends/cuda/runtime/device_scope.h"
#include "check.h"

namespace tinyllm {

using namespace cuda;

namespace {

__global__ void trap_kernel() { __trap(); }

}  // namespace

TEST_CASE("a sticky error breaks the device for good") {
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
            CHECK_THROWS_WITH(cuda_stream.synchronize(), doctest::Contains("from cudaStreamSynchronize"));
        }
        const char* const words = "GPU 0 cannot be used any more";
        CHECK_THROWS_WITH(backend->synchronize(), doctest::Contains(words));
        CHECK_THROWS_WITH(backend->fill_zero(memory->data(), memory->bytes()), doctest::Contains(words));
        CHECK_THROWS_WITH(backend->allocate(tracker, Component::Workspace, 16, "more"), doctest::Contains(words));
        CHECK_THROWS_WITH(backend->run_step({}, [] {}), doctest::Contains(words));
    }
    CHECK(tracker.total().current_bytes == 0);
    CHECK_THROWS_WITH(cuda::make_backend(0), doctest::Contains("GPU 0 cannot be used any more"));
    const std::vector<tl_device_info> devices = query_cuda_devices();
    CHECK(!devices.empty());
    CHECK(devices.front().usable == 0);
    CHECK(std::strstr(devices.front().description, "start a new process") != nullptr);
}

}  // namespace tinyllm
