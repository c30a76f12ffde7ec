// DeviceScope: makes a GPU the calling thread's current device for as long as it lives.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <utility>

#include "backends/cuda/runtime/primary_context.h"
#include "core/error.h"

namespace tinyllm::cuda {

// More than any machine has. What is kept for each device is kept in arrays of this size.
constexpr int kMaxDevices = 64;

// Every public call into the backend holds one. What was current before comes back at the end, because the thread
// belongs to the user, whose own CUDA code has a current device too. The device keeps its primary context from the
// first scope on. Throws CudaError, for one if the device is marked broken.
class DeviceScope {
public:
    explicit DeviceScope(int device);
    ~DeviceScope();
    DeviceScope(const DeviceScope&) = delete;
    DeviceScope& operator=(const DeviceScope&) = delete;

private:
    int previous_scope_;
    CurrentContext context_;
};

// Marks the device of the thread's innermost DeviceScope broken: a sticky error was seen on it. It stays broken until
// the process ends.
void mark_scoped_device_broken(cudaError_t code) noexcept;

// Why a broken device cannot be used and what to do; empty if it is not broken.
std::string broken_device_problem(int device);

// Throws a CUDA error that says so if the device is broken.
void require_working_device(int device);

// Whether a destructor may make CUDA calls for this device: not once the process is exiting or the device is broken.
// Its memory is then gone with the context.
bool device_accepts_calls(int device) noexcept;

// For destructors: calls `release` with `device` current, if the device accepts calls.
template <typename Release>
void release_on(int device, Release&& release) noexcept {
    if (!device_accepts_calls(device)) return;
    try {
        const DeviceScope scope(device);
        std::forward<Release>(release)();
    } catch (const Error&) {
        // The device has become unusable since; its memory is gone with the context.
    }
}

}  // namespace tinyllm::cuda
