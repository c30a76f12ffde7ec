#include "backends/cuda/runtime/device_scope.h"

#include <array>
#include <atomic>
#include <mutex>

#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/process_exit.h"

namespace tinyllm::cuda {

namespace {

std::array<std::atomic<cudaError_t>, kMaxDevices> g_broken{};
// Device of the innermost scope. cudaGetDevice cannot be asked instead: after a sticky error it only repeats the error.
thread_local int t_scope = -1;

cudaError_t broken_code(int device) noexcept {
    return device >= 0 && device < kMaxDevices ? g_broken[device].load() : cudaSuccess;
}

// The primary context of a device that is not broken, kept till the process ends, as the CUDA runtime itself does.
CUcontext working_context(int device) {
    require_working_device(device);
    static std::array<std::atomic<const PrimaryContext*>, kMaxDevices> contexts{};
    TL_CHECK(device >= 0 && device < kMaxDevices);
    if (const PrimaryContext* const known = contexts[device]) return known->get();
    static std::mutex mutex;
    const std::lock_guard lock(mutex);
    if (contexts[device] == nullptr) contexts[device] = new PrimaryContext(device);
    return contexts[device].load()->get();
}

}  // namespace

void mark_scoped_device_broken(cudaError_t code) noexcept {
    if (t_scope >= 0 && t_scope < kMaxDevices) g_broken[t_scope] = code;
}

bool device_accepts_calls(int device) noexcept { return !process_is_exiting() && broken_code(device) == cudaSuccess; }

std::string broken_device_problem(int device) {
    const cudaError_t code = broken_code(device);
    if (code == cudaSuccess) return {};
    return concat("GPU ", device, " cannot be used any more: an earlier error (", cudaGetErrorName(code),
                  ") destroyed its CUDA context; close all engines and start a new process");
}

void require_working_device(int device) {
    if (const std::string problem = broken_device_problem(device); !problem.empty()) fail(TL_STATUS_CUDA, problem);
}

DeviceScope::DeviceScope(int device) : previous_scope_(t_scope), context_(working_context(device)) { t_scope = device; }

DeviceScope::~DeviceScope() { t_scope = previous_scope_; }

}  // namespace tinyllm::cuda
