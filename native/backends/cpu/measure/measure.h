// Ceilings of the CPU, for tinyllm-bench.
#pragma once

#include <cstdint>

#include "backends/cpu/simd/isa.h"
#include "memory/tracker.h"

namespace tinyllm::cpu {

// Bytes per second that all threads together read from a block larger than the caches.
double read_bandwidth(MemoryTracker& tracker);
// Floating-point operations per second of all threads together in the multiply-add of the linear layers, data in
// registers.
double matrix_rate(CpuIsa isa);

// Chains of multiply-adds, enough to fill the pipelines; each returns the operations it did, and a value that depends
// on all of them through `sink`.
double multiply_adds_portable(int64_t rounds, float& sink);
double multiply_adds_avx2(int64_t rounds, float& sink);
double multiply_adds_avx512(int64_t rounds, float& sink);

}  // namespace tinyllm::cpu
