#include "backends/cuda/runtime/code_reserve.h"

#include <cuda.h>

#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/driver_function.h"

namespace tinyllm::cuda {

void CodeReserve::take(int device) noexcept {
    if (handle_ != 0) return;
    CUmemAllocationProp properties = {};
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = device;
    try {
        const auto create = driver_function<CUresult (*)(
            CUmemGenericAllocationHandle*, size_t, const CUmemAllocationProp*, unsigned long long)>("cuMemCreate");
        if (create(&handle_, kBytes, &properties, 0) != CUDA_SUCCESS) handle_ = 0;
    } catch (const CudaError&) {
        handle_ = 0;  // works without
    }
}

void CodeReserve::give() noexcept {
    if (handle_ == 0) return;
    try {
        driver_function<CUresult (*)(CUmemGenericAllocationHandle)>("cuMemRelease")(handle_);
    } catch (const CudaError&) {
        // Only where the context is gone, and the memory with it.
    }
    handle_ = 0;
}

}  // namespace tinyllm::cuda
