// Checked kernel launches.
#pragma once

#include <cuda_runtime.h>

#include <source_location>

#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_info.h"

namespace tinyllm::cuda {

struct LaunchShape {
    dim3 grid;
    dim3 block;
    size_t shared_bytes = 0;                                       // dynamic; more than 48 KB needs a limit set first
    std::source_location where = std::source_location::current();  // of the launch, for the error message
};

// Lets `kernel` take as much dynamic shared memory as a block can have, for kernels that take more or less of it. The
// limit belongs to the function, not to a launch: if each thread set what it needs at the moment, one could lower the
// limit of another.
template <typename... Parameters>
void allow_all_shared_memory(void (*kernel)(Parameters...)) {
    cudaFuncAttributes attributes = {};
    TL_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
    const int free_bytes = device_traits().max_shared_bytes - static_cast<int>(attributes.sharedSizeBytes);
    TL_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, free_bytes));
}

// Launches `kernel` so that it may start before its predecessor in the stream ends, where the device can
// (DeviceTraits::programmatic_launch); otherwise in plain order. The kernel follows the rule of dependency.cuh.
// `call` ("launch of ...") is for the error message. Throws CudaError.
template <typename... Parameters, typename... Arguments>
void launch_overlapped(const char* call, void (*kernel)(Parameters...), const LaunchShape& shape,
                       cudaStream_t cuda_stream, Arguments... arguments) {
    // One split of L1 and shared memory for all kernels: an SM changes it only when it is empty, so kernels that ask
    // for different splits do not overlap.
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
    attributes[0].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = cuda_stream;
    config.attrs = attributes;
    config.numAttrs = device_traits().programmatic_launch ? 2 : 1;
    cuda_check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), call,
               shape.where.file_name(), static_cast<int>(shape.where.line()));
}

// The number of threads for __launch_bounds__ where several blocks must fit on an SM. The hardware allocates registers
// to four warps at a time, which the compiler does not count (576 threads with 56 registers did not fit twice).
constexpr int allocated_threads(int threads) { return (threads + 127) / 128 * 128; }

// Whether this many blocks, of which an SM holds two, reach most SMs.
inline bool fills_sms(unsigned blocks) { return blocks > static_cast<unsigned>(device_traits().num_sms) / 2; }

inline unsigned ceil_div(int64_t value, int64_t divisor) {
    return static_cast<unsigned>((value + divisor - 1) / divisor);
}

}  // namespace tinyllm::cuda
