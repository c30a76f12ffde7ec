// Ceilings of the GPU, for tinyllm-bench. Both run on the current device and wait.
#pragma once

#include "backends/cuda/runtime/cuda_stream.h"
#include "backends/cuda/runtime/pool.h"
#include "memory/tracker.h"

namespace tinyllm::cuda {

// Bytes per second of the fastest plain read of 4 GB (less where the device has not so much free).
double cuda_read_bandwidth(const MemoryPool& pool, const CudaStream& cuda_stream, MemoryTracker& tracker);
// Floating-point operations per second of the tensor cores with random float16 inputs that already lie in registers and
// shared memory.
double cuda_matrix_rate(const MemoryPool& pool, const CudaStream& cuda_stream, MemoryTracker& tracker);

}  // namespace tinyllm::cuda
