// NVIDIA's management library, which knows how much of a GPU is free before this process has a CUDA context.
#pragma once

#include <cstdint>
#include <optional>

namespace tinyllm::cuda {

// Free bytes of CUDA device `device`, by the same count as cudaMemGetInfo (driver 580: equal to the byte). Needs no
// context and makes none. Empty where the library is missing or does not know the device (some virtual GPUs).
std::optional<uint64_t> nvml_free_bytes(int device);

}  // namespace tinyllm::cuda
