#include "backends/registry.h"

#include "backends/cpu/cpu_backend.h"
#include "backends/cuda/runtime/staging_bytes.h"
#include "backends/cuda/scratch_bytes.h"
#include "core/error.h"
#ifdef TINYLLM_WITH_CUDA
#include "backends/cuda/cuda_backend.h"
#endif

namespace tinyllm {

std::unique_ptr<Backend> make_backend(DeviceKind kind, int32_t index) {
    if (kind == DeviceKind::Cpu) {
        if (index != 0) fail(TL_STATUS_CONFIG, "device cpu:", index, " does not exist; the only CPU device is cpu:0");
        return cpu::make_backend();
    }
#ifdef TINYLLM_WITH_CUDA
    return cuda::make_backend(index);
#else
    fail(TL_STATUS_CONFIG, "device cuda:", index,
         " cannot be used: this library was built without CUDA (TINYLLM_CUDA=OFF); use device=\"cpu\" or rebuild");
#endif
}

std::vector<tl_device_info> list_devices() {
    std::vector<tl_device_info> devices = {cpu::device_info()};
#ifdef TINYLLM_WITH_CUDA
    for (const tl_device_info& device : cuda::list_devices()) devices.push_back(device);
#endif
    return devices;
}

int64_t scratch_bytes(DeviceKind kind, const ModelShapes& model, const KVCacheConfig& kv_cache) {
    return kind == DeviceKind::Cpu ? cpu::scratch_bytes(model, kv_cache) : cuda::scratch_bytes(model, kv_cache);
}

StagingSizes staging_sizes(DeviceKind kind) {
    if (kind == DeviceKind::Cpu) return {};
    return {cuda::kUploadBytes + cuda::kDownloadBytes, cuda::kLoadBlockBytes, cuda::kLoadBlocks, cuda::kPoolStep};
}

}  // namespace tinyllm
