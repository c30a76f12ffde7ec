// Functions of the driver API, found at run time: the library is not linked with the driver, which may not be there.
#pragma once

#include <cuda_runtime_api.h>

#include "backends/cuda/runtime/cuda_check.h"

namespace tinyllm::cuda {

// The driver function `name` as this CUDA version declares it. Throws CudaError where the driver does not know it.
template <typename Function>
Function driver_function(const char* name) {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    TL_CUDA_CHECK(cudaGetDriverEntryPointByVersion(name, &function, CUDART_VERSION, cudaEnableDefault, &result));
    TL_CHECK(result == cudaDriverEntryPointSuccess);
    return reinterpret_cast<Function>(function);
}

}  // namespace tinyllm::cuda
