// The CUDA backend: one GPU, one stream.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backends/cuda/scratch_bytes.h"
#include "ops/backend.h"

namespace tinyllm::cuda {

// Opens GPU `index`. Throws a Config error that says why it cannot be used, or CudaError.
std::unique_ptr<Backend> make_backend(int32_t index);

// Every GPU that the driver shows, usable or not; empty, never an error, on a machine without GPU or driver.
std::vector<tl_device_info> list_devices();

}  // namespace tinyllm::cuda
