// The backends of this build.
#pragma once

#include <memory>
#include <vector>

#include "model/config.h"
#include "ops/backend.h"

namespace tinyllm {

// Opens a device. Throws Config errors for a device that does not exist, is not usable, or is not in this build.
std::unique_ptr<Backend> make_backend(DeviceKind kind, int32_t index);

// All devices, the CPU first; never throws for a machine without a GPU or driver.
std::vector<tl_device_info> list_devices();

// Scratch bytes that the kernels of a backend need for a configuration, bound with Backend::bind_scratch. Computed
// without a device, for a backend that this build lacks too.
int64_t scratch_bytes(DeviceKind kind, const ModelConfig& model, const EngineConfig& engine);

}  // namespace tinyllm
