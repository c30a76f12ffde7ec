// An engine touches its own GPU alone and leaves the user's threads as they were. A program of its own, because
// contexts stay until the process ends.
#include <thread>

#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_info.h"
#include "backends/cuda/runtime/device_scope.h"
#include "backends/cuda/runtime/driver_function.h"
#include "check.h"
#include "engine/engine_cases.h"
#include "testing/synthetic_model.h"

namespace tinyllm::test {

using namespace cuda;

namespace {

CUcontext current_context() {
    static const auto get_current = driver_function<CUresult (*)(CUcontext*)>("cuCtxGetCurrent");
    CUcontext context = nullptr;
    TL_DRIVER_CHECK(get_current(&context));
    return context;
}

int current_device() {
    int device = -1;
    TL_CUDA_CHECK(cudaGetDevice(&device));
    return device;
}

int last_device() { return static_cast<int>(query_cuda_devices().size()) - 1; }

void generate(int device) {
    EngineConfig config = small_engine(4, 64, 32, 0, DeviceKind::Cuda);
    config.device_index = device;
    Batcher engine(small_model(), config);
    testing::load_synthetic(engine.runner());
    for (int32_t i = 0; i < 3; ++i)
        engine.submit(testing::random_tokens(5, engine.runner().model_config().vocab_size, i), filtered(6), nullptr);
    CHECK(run(engine).size() == 3);
}

}  // namespace

TEST_CASE("listing devices leaves no context") {
    const int count = last_device() + 1;
    for (int device = 0; device < count; ++device) CHECK(!PrimaryContext::exists(device));
    CHECK(current_context() == nullptr);
}

TEST_CASE("an engine makes a context on its own device alone") {
    const int last = last_device();
    std::thread([&] {
        generate(last);
        CHECK(current_context() == nullptr);
    }).join();
    generate(last);
    CHECK(current_context() == nullptr);
    CHECK(PrimaryContext::exists(last));
    for (int device = 0; device < last; ++device) CHECK(!PrimaryContext::exists(device));
}

TEST_CASE("what was current comes back") {
    const int last = last_device();
    TL_CUDA_CHECK(cudaSetDevice(0));
    const CUcontext of_user = current_context();
    CHECK(of_user != nullptr);
    {
        const DeviceScope scope(last);
        CHECK(current_device() == last);
        const DeviceScope inner(0);
        CHECK(current_context() == of_user);
        CHECK(current_device() == 0);
    }
    generate(last);
    CHECK(current_context() == of_user);
    CHECK(current_device() == 0);
}

TEST_CASE("a context of the users own is not used") {
    const auto create =
        driver_function<CUresult (*)(CUcontext*, CUctxCreateParams*, unsigned, CUdevice)>("cuCtxCreate");
    const auto destroy = driver_function<CUresult (*)(CUcontext)>("cuCtxDestroy");
    const int last = last_device();
    std::thread([&] {
        CUcontext own = nullptr;
        TL_DRIVER_CHECK(create(&own, nullptr, 0, last));
        CHECK(current_context() == own);
        {
            const DeviceScope scope(last);
            CHECK(current_context() != own);
            CHECK(current_device() == last);
        }
        generate(last);
        CHECK(current_context() == own);
        TL_DRIVER_CHECK(destroy(own));
    }).join();
}

}  // namespace tinyllm::test
