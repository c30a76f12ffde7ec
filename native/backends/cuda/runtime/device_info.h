// What GPUs there are, whether tinyllm can use them, and the properties that launchers ask for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tinyllm.h"

namespace tinyllm::cuda {

// Lowest compute capability (10 * major + minor) that the kernels are written for: cp.async and mma.sync m16n8k16.
constexpr int kMinComputeCapability = 80;

// Every GPU that the driver shows, usable or not; empty without a driver. Never throws for a machine without GPU or
// driver, and leaves no CUDA context behind where there was none.
std::vector<tl_device_info> query_cuda_devices();

// Why GPU `index` cannot be used (no driver, a driver too old, no such device, too old a GPU, ...) and what to do about
// it; empty if it can.
std::string cuda_device_problem(int index);

struct DeviceTraits {
    int compute_capability = 0;  // 10 * major + minor
    int num_sms = 0;
    int max_shared_bytes = 0;  // dynamic shared memory that a block may opt in to
    // Whether kernels may be launched with programmatic stream serialization: device and code are both of compute
    // capability 9.0 or higher. Code built for less has no dependency wait and would run ahead of its inputs.
    bool programmatic_launch = false;
    // Whether the kernels of the architecture-specific target 9.0a (wgmma) run: neither other devices nor code built
    // for plain 9.0 have them.
    bool sm90a = false;
};

// Of the current device, asked once per device and process. Throws CudaError, and Config errors where this build has no
// code for the device.
const DeviceTraits& device_traits();

}  // namespace tinyllm::cuda
