#include "backends/cuda/runtime/cuda_check.h"

#include <cstdio>

#include "backends/cuda/runtime/device_scope.h"
#include "backends/cuda/runtime/process_exit.h"

namespace tinyllm::cuda {

namespace {

// CUDA loads the code of a kernel when it is first launched, and says "unknown error" where a full device has no room
// for it (driver 580; docs/memory-model.md). Code is loaded in pieces of a few megabytes. From any other call that
// error may mean anything.
bool is_full_device(cudaError_t code, const std::string& call) {
    constexpr size_t kLeftOnFullDevice = size_t{8} << 20;
    size_t free_bytes = 0, total_bytes = 0;
    return code == cudaErrorUnknown && call.starts_with("launch of ") &&
           cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess && free_bytes < kLeftOnFullDevice;
}

Status status_of(cudaError_t code, const std::string& call) {
    return code == cudaErrorMemoryAllocation || is_full_device(code, call) ? TL_STATUS_OUT_OF_MEMORY : TL_STATUS_CUDA;
}

// What to make of an error that does not speak for itself.
const char* hint(cudaError_t code, const std::string& call) {
    return is_full_device(code, call) ? "; the GPU's memory is full: there is no room for the code of a kernel" : "";
}

}  // namespace

CudaError::CudaError(cudaError_t code, const std::string& call, const char* file, int line)
    : Error(status_of(code, call), concat("CUDA error ", cudaGetErrorName(code), " (", cudaGetErrorString(code),
                                          ") from ", call, " at ", file, ":", line, hint(code, call))),
      code_(code) {}

bool is_sticky(cudaError_t code) noexcept {
    switch (code) {
        case cudaErrorIllegalAddress:
        case cudaErrorLaunchTimeout:
        case cudaErrorHardwareStackError:
        case cudaErrorIllegalInstruction:
        case cudaErrorMisalignedAddress:
        case cudaErrorInvalidAddressSpace:
        case cudaErrorInvalidPc:
        case cudaErrorLaunchFailure:
        case cudaErrorAssert:
        case cudaErrorECCUncorrectable:
        case cudaErrorNvlinkUncorrectable:
        case cudaErrorContextIsDestroyed:
        case cudaErrorExternalDevice:
        case cudaErrorContained:
        case cudaErrorTensorMemoryLeak:
            return true;
        default:
            return false;
    }
}

void throw_cuda_error(cudaError_t code, const char* call, const char* file, int line) {
    // Otherwise the next launch check would report this error once more.
    static_cast<void>(cudaGetLastError());
    if (is_sticky(code)) mark_scoped_device_broken(code);
    throw CudaError(code, call, file, line);
}

void report_cuda_error(cudaError_t code, const char* call, const char* file, int line) noexcept {
    static_cast<void>(cudaGetLastError());
    if (process_is_exiting() || code == cudaErrorCudartUnloading) return;
    if (is_sticky(code)) mark_scoped_device_broken(code);
    std::fprintf(stderr, "tinyllm: CUDA error %s (%s) from %s at %s:%d\n", cudaGetErrorName(code),
                 cudaGetErrorString(code), call, file, line);
}

}  // namespace tinyllm::cuda
