// What a device can do at best, measured now. Not a part of its backend: only the bench asks.
#pragma once

#include <cstdint>

namespace tinyllm::bench {

struct Ceilings {
    double read_bandwidth;  // bytes per second of reading a block larger than the caches
    double matrix_rate;     // floating-point operations per second with 16-bit inputs in registers or shared memory
};

// All threads of the CPU together, in the multiply-add that the linear layers use.
Ceilings cpu_ceilings();

// A GPU that a backend has been made for. Only in builds with CUDA.
Ceilings cuda_ceilings(int32_t device);

}  // namespace tinyllm::bench
