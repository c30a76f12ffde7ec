#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <string_view>

#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_info.h"
#include "backends/cuda/runtime/device_scope.h"
#include "backends/cuda/runtime/driver_function.h"
#include "backends/cuda/runtime/driver_ledger.h"
#include "backends/cuda/runtime/primary_context.h"

namespace tinyllm::cuda {

namespace {

// Exists to be asked which code the driver picks for a device.
__global__ void probe_kernel() {}

std::string version_text(int version) { return concat(version / 1000, ".", version % 1000 / 10); }

// Why there are no devices at all; empty if there are some. `count` receives their number.
std::string driver_problem(int& count) {
    // The runtime looks for devices once, and after a sticky error it would only repeat that error.
    static std::atomic<int> found{0};
    count = found;
    if (count > 0) return {};
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code == cudaSuccess && count > 0) {
        found = count;
        return {};
    }
    count = 0;
    static_cast<void>(cudaGetLastError());
    int driver_version = 0;
    const bool has_driver = cudaDriverGetVersion(&driver_version) == cudaSuccess && driver_version > 0;
    if (!has_driver) return "no NVIDIA driver was found on this machine; install one or use the CPU";
    if (code == cudaErrorInsufficientDriver)
        return concat("the NVIDIA driver is too old: it supports CUDA ", version_text(driver_version),
                      ", this library needs ", version_text(CUDART_VERSION), "; update the driver");
    if (code == cudaSuccess || code == cudaErrorNoDevice)
        return "the NVIDIA driver shows no GPU (CUDA_VISIBLE_DEVICES may hide it)";
    return concat("the NVIDIA driver does not start: ", cudaGetErrorName(code), " (", cudaGetErrorString(code), ")");
}

// Why a GPU with these properties cannot be used; empty if it can.
std::string properties_problem(int index, const cudaDeviceProp& properties) {
    if (properties.major * 10 + properties.minor < kMinComputeCapability)
        return concat("compute capability ", properties.major, ".", properties.minor, " is too low; tinyllm needs ",
                      kMinComputeCapability / 10, ".", kMinComputeCapability % 10, " or higher (Ampere or newer)");
    if (properties.memoryPoolsSupported == 0)
        return "the driver offers no stream-ordered memory pools on this GPU; a full GPU outside a shared virtual one "
               "has them";
    int compute_mode = cudaComputeModeDefault;
    TL_CUDA_CHECK(cudaDeviceGetAttribute(&compute_mode, cudaDevAttrComputeMode, index));
    if (compute_mode == cudaComputeModeProhibited) return "the GPU's compute mode forbids CUDA programs";
    return {};
}

// Free bytes of a device. The question needs a context; the primary one is taken for the moment and given back, so that
// merely listing devices does not keep several hundred MB on each. Returns 0 where the driver refuses (a full GPU).
uint64_t free_bytes_of(int index) {
    // Not the runtime's cudaMemGetInfo: that would keep the context.
    const auto memory_info = driver_function<CUresult (*)(size_t*, size_t*)>("cuMemGetInfo");
    try {
        const PrimaryContext context(index);
        const CurrentContext current(context.get());
        size_t free_bytes = 0, total_bytes = 0;
        TL_DRIVER_CHECK(memory_info(&free_bytes, &total_bytes));
        return free_bytes;
    } catch (const CudaError&) {
        return 0;
    }
}

// Cuts off what does not fit; `target` is zeroed before.
template <size_t kSize>
void copy_text(char (&target)[kSize], const std::string& text) {
    text.copy(target, kSize - 1);
}

tl_device_info query_device(int index) {
    tl_device_info info = {};
    info.struct_size = sizeof info;
    info.device_kind = TL_DEVICE_CUDA;
    info.device_index = index;
    if (const std::string broken = broken_device_problem(index); !broken.empty()) {
        copy_text(info.name, concat("GPU ", index));
        copy_text(info.description, broken);
        return info;
    }
    cudaDeviceProp properties;
    TL_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
    const std::string problem = properties_problem(index, properties);
    info.usable = problem.empty();
    if (info.usable) DriverLedger::of(index).before_context(index);  // free_bytes_of makes one
    info.compute_capability = properties.major * 10 + properties.minor;
    info.num_units = properties.multiProcessorCount;
    info.free_bytes = info.usable ? free_bytes_of(index) : 0;
    info.total_bytes = properties.totalGlobalMem;
    const std::string description =
        problem.empty() ? concat("compute capability ", properties.major, ".", properties.minor, ", ",
                                 properties.multiProcessorCount, " SMs, ", properties.l2CacheSize >> 20, " MB L2")
                        : problem;
    copy_text(info.name, properties.name);
    copy_text(info.description, description);
    return info;
}

DeviceTraits query_traits(int device) {
    cudaDeviceProp properties;
    TL_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    cudaFuncAttributes code;
    const cudaError_t result = cudaFuncGetAttributes(&code, probe_kernel);
    if (result == cudaErrorNoKernelImageForDevice || result == cudaErrorInvalidDeviceFunction ||
        result == cudaErrorUnsupportedPtxVersion) {
        static_cast<void>(cudaGetLastError());
        fail(TL_STATUS_CONFIG, "this build of tinyllm has no code for ", properties.name, " (compute capability ",
             properties.major, ".", properties.minor, "); rebuild it with CMAKE_CUDA_ARCHITECTURES=", properties.major,
             properties.minor);
    }
    TL_CUDA_CHECK(result);
    DeviceTraits traits;
    traits.compute_capability = properties.major * 10 + properties.minor;
    traits.num_sms = properties.multiProcessorCount;
    traits.max_shared_bytes = static_cast<int>(properties.sharedMemPerBlockOptin);
    traits.programmatic_launch = std::min({code.binaryVersion, code.ptxVersion, traits.compute_capability}) >= 90;
    constexpr bool kHasSm90a = std::string_view(TINYLLM_CUDA_ARCHITECTURES).find("90a") != std::string_view::npos;
    // The driver may also have compiled the PTX for 8.0 (CUDA_FORCE_PTX_JIT), which programmatic_launch tells.
    traits.sm90a = kHasSm90a && traits.compute_capability == 90 && traits.programmatic_launch;
    return traits;
}

}  // namespace

std::vector<tl_device_info> query_cuda_devices() {
    int count = 0;
    if (!driver_problem(count).empty()) return {};
    std::vector<tl_device_info> devices;
    for (int index = 0; index < count; ++index) devices.push_back(query_device(index));
    return devices;
}

std::string cuda_device_problem(int index) {
    int count = 0;
    std::string problem = driver_problem(count);
    if (!problem.empty()) return problem;
    if (index < 0 || index >= count)
        return concat("there ", count == 1 ? "is " : "are ", count, count == 1 ? " GPU" : " GPUs",
                      " on this machine; use an index from 0 to ", count - 1);
    cudaDeviceProp properties;
    TL_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
    return properties_problem(index, properties);
}

const DeviceTraits& device_traits() {
    static std::array<DeviceTraits, kMaxDevices> traits;
    static std::array<std::once_flag, kMaxDevices> once;
    int device = 0;
    TL_CUDA_CHECK(cudaGetDevice(&device));
    TL_CHECK(device < kMaxDevices);
    std::call_once(once[device], [device] { traits[device] = query_traits(device); });
    return traits[device];
}

}  // namespace tinyllm::cuda
