#include "backends/cuda/runtime/nvml.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

namespace tinyllm::cuda {

namespace {

// The part of nvml.h that is needed here: the library comes with the driver, its header with the toolkit only.
constexpr int kSuccess = 0;
struct Memory {
    unsigned long long total, free, used;
};

struct Nvml {
    int (*device_by_pci_bus_id)(const char*, void**) = nullptr;
    int (*memory_info)(void*, Memory*) = nullptr;

    bool usable() const { return device_by_pci_bus_id != nullptr && memory_info != nullptr; }
};

template <typename Function>
void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
}

Nvml open_library() {
    Nvml nvml;
    void* const library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return nvml;
    int (*init)() = nullptr;
    find(library, "nvmlInit_v2", init);
    if (init == nullptr || init() != kSuccess) return nvml;
    find(library, "nvmlDeviceGetHandleByPciBusId_v2", nvml.device_by_pci_bus_id);
    find(library, "nvmlDeviceGetMemoryInfo", nvml.memory_info);
    return nvml;
}

}  // namespace

std::optional<uint64_t> nvml_free_bytes(int device) {
    static const Nvml nvml = open_library();  // stays open: starting it takes 12 ms
    if (!nvml.usable()) return {};
    // NVML numbers the GPUs of the machine, CUDA those that CUDA_VISIBLE_DEVICES shows.
    char bus_id[32] = {};
    if (cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, device) != cudaSuccess) {
        static_cast<void>(cudaGetLastError());
        return {};
    }
    void* handle = nullptr;
    Memory memory = {};
    if (nvml.device_by_pci_bus_id(bus_id, &handle) != kSuccess) return {};
    if (nvml.memory_info(handle, &memory) != kSuccess) return {};
    return memory.free;
}

}  // namespace tinyllm::cuda
