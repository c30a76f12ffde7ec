// CUDA errors: every call and every launch goes through one of the macros at the end.
#pragma once

#include <cuda_runtime_api.h>

#include "core/error.h"

namespace tinyllm::cuda {

// A CUDA call that failed. Its status is OUT_OF_MEMORY for cudaErrorMemoryAllocation, and for what a launch gives where
// a full device has no room for the kernel's code, after which everything else goes on working, and CUDA otherwise. The
// message holds the call, its place, and CUDA's name and text of the error.
class CudaError : public Error {
public:
    CudaError(cudaError_t code, const std::string& call, const char* file, int line);
    cudaError_t code() const noexcept { return code_; }

private:
    cudaError_t code_;
};

// Sticky errors (an illegal address, a failed assertion in a kernel, ...) destroy the CUDA context: every later call in
// the process fails with the same code.
bool is_sticky(cudaError_t code) noexcept;

// Throws CudaError. A sticky error also marks the device of the calling thread's DeviceScope broken.
[[noreturn]] void throw_cuda_error(cudaError_t code, const char* call, const char* file, int line);

// For destructors: writes one line to stderr, unless the process is exiting.
void report_cuda_error(cudaError_t code, const char* call, const char* file, int line) noexcept;

inline void cuda_check(cudaError_t code, const char* call, const char* file, int line) {
    if (code != cudaSuccess) [[unlikely]]
        throw_cuda_error(code, call, file, line);
}

inline void cuda_check_nothrow(cudaError_t code, const char* call, const char* file, int line) noexcept {
    if (code != cudaSuccess) [[unlikely]]
        report_cuda_error(code, call, file, line);
}

}  // namespace tinyllm::cuda

// Checks a CUDA runtime call.
#define TL_CUDA_CHECK(call) tinyllm::cuda::cuda_check((call), #call, __FILE__, __LINE__)
// Checks a call of the driver API, whose codes are the runtime's of the same numbers.
#define TL_DRIVER_CHECK(call) tinyllm::cuda::cuda_check(static_cast<cudaError_t>(call), #call, __FILE__, __LINE__)
// TL_CUDA_CHECK where an exception must not leave.
#define TL_CUDA_CHECK_NOTHROW(call) tinyllm::cuda::cuda_check_nothrow((call), #call, __FILE__, __LINE__)
// Right after a launch with <<<>>>; `name` (a string) says which kernel.
#define TL_CUDA_CHECK_LAUNCH(name) tinyllm::cuda::cuda_check(cudaGetLastError(), "launch of " name, __FILE__, __LINE__)
