#include "ops/registry.h"

#include "backends/cpu/cpu_backend.h"
#include "backends/cuda/scratch_bytes.h"
#include "core/error.h"
#ifdef TINYLLM_WITH_CUDA
#include "backends/cuda/cuda_backend.h"
#endif

namespace tinyllm {

std::unique_ptr<Backend> make_backend(DeviceKind kind, int32_t index) {
    if (kind == DeviceKind::Cpu) {
        if (index != 0) fail(TL_STATUS_CONFIG, "device cpu:", index, " does not exist; the only CPU device is cpu:0");
        return make_cpu_backend();
    }
#ifdef TINYLLM_WITH_CUDA
    return make_cuda_backend(index);
#else
    fail(TL_STATUS_CONFIG, "device cuda:", index,
         " cannot be used: this library was built without CUDA (TINYLLM_CUDA=OFF); use device=\"cpu\" or rebuild");
#endif
}

std::vector<tl_device_info> list_devices() {
    std::vector<tl_device_info> devices = {cpu_device_info()};
#ifdef TINYLLM_WITH_CUDA
    for (const tl_device_info& device : cuda_list_devices()) devices.push_back(device);
#endif
    return devices;
}

int64_t scratch_bytes(DeviceKind kind, const ModelConfig& model, const EngineConfig& engine) {
    return kind == DeviceKind::Cpu ? cpu_scratch_bytes(model, engine) : cuda_scratch_bytes(model, engine);
}

}  // namespace tinyllm
