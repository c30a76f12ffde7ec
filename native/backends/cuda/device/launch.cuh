// Checked kernel launches.
#pragma once

#include <cuda_runtime.h>

#include <source_location>

#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_info.h"

namespace tinyllm {

struct LaunchShape {
    dim3 grid;
    dim3 block;
    size_t shared_bytes = 0;  // dynamic; more than 48 KB needs cudaFuncSetAttribute first
    std::source_location where = std::source_location::current();  // of the launch, for the error message
};

// Launches `kernel` so that it may start before its predecessor in the stream ends, where the device can
// (DeviceTraits::programmatic_launch); otherwise in plain order. The kernel follows the rule of dependency.cuh.
// `call` ("launch of ...") is for the error message. Throws CudaError.
template <typename... Parameters, typename... Arguments>
void launch_overlapped(const char* call, void (*kernel)(Parameters...), const LaunchShape& shape,
                       cudaStream_t cuda_stream, Arguments... arguments) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = cuda_stream;
    config.attrs = &attribute;
    config.numAttrs = device_traits().programmatic_launch ? 1 : 0;
    cuda_check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), call,
               shape.where.file_name(), static_cast<int>(shape.where.line()));
}

inline unsigned ceil_div(int64_t value, int64_t divisor) {
    return static_cast<unsigned>((value + divisor - 1) / divisor);
}

}  // namespace tinyllm
