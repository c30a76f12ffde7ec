// DeviceScope: makes a GPU the calling thread's current device for as long as it lives.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace tinyllm {

// Every public call into the backend holds one. The previous device comes back at the end, because the thread belongs
// to the user, whose own CUDA code has a current device too. Throws CudaError if the device is marked broken.
class DeviceScope {
public:
    explicit DeviceScope(int device);
    ~DeviceScope();
    DeviceScope(const DeviceScope&) = delete;
    DeviceScope& operator=(const DeviceScope&) = delete;

private:
    int previous_scope_;
    int previous_device_ = 0;
    bool changed_ = false;
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

}  // namespace tinyllm
