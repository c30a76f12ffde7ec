// The enumerations of the C ABI that more than the configuration needs, as C++ types.
#pragma once

#include <cstdint>

#include "tinyllm.h"

namespace tinyllm {

enum class DeviceKind : int32_t { Cpu = TL_DEVICE_CPU, Cuda = TL_DEVICE_CUDA };
enum class QuantizationType : int32_t { NONE = TL_QUANTIZATION_NONE, W8A16 = TL_QUANTIZATION_W8A16 };
enum class RopeType : int32_t {
    Default = TL_ROPE_DEFAULT,
    Linear = TL_ROPE_LINEAR,
    Dynamic = TL_ROPE_DYNAMIC,
    Llama3 = TL_ROPE_LLAMA3,
    Yarn = TL_ROPE_YARN
};

}  // namespace tinyllm
