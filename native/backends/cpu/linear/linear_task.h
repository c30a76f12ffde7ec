// What one thread computes of a linear layer at a time; between linear.cpp, which splits the work, and the kernels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backends/cpu/linear/linear.h"

namespace tinyllm::cpu {

// Up to this many rows of x are multiplied with the weights as they are read (decode); for more, the weights are
// dequantised to a panel first, which all rows share. Both give the same bits; this is about where their times cross.
constexpr int64_t kDirectRows = 12;
// Outputs are computed in fours, for up to this many rows of x at a time.
constexpr int64_t kTileOutputs = 4;
constexpr int64_t kMaxTileRows = 6;
// Outputs of a panel; even, for pairs of gate and up.
constexpr int64_t kPanelOutputs = 64;
// Inputs of a panel: kPanelOutputs * kPanelInputs floats stay in the L2 cache. Also the length after which the lanes of
// a sum are added up, so a change of it changes the bits of results.
constexpr int64_t kPanelInputs = 1024;
// Floats from a row of a panel to the next: not 4 KiB, so that the rows of a tile lie in different sets of the L1
// cache.
constexpr int64_t kPanelStride = kPanelInputs + 16;
// Most rows of a task.
constexpr int64_t kTaskRows = 144;
// Inputs are padded to this in scratch: a multiple of every vector width.
constexpr int64_t kInputAlign = 16;

constexpr int64_t padded_inputs(int64_t k) { return (k + kInputAlign - 1) / kInputAlign * kInputAlign; }

// Floats of scratch that a task may use.
constexpr int64_t task_scratch_floats(int64_t k) {
    const int64_t sums = kTaskRows * kPanelOutputs;
    const int64_t panel = (kPanelOutputs + kMaxTileRows) * kPanelStride;
    const int64_t direct = kDirectRows * padded_inputs(k);
    return sums + std::max(panel, direct);
}

// Outputs [n_begin, n_end) of `rows` rows. n_begin is even.
struct LinearTask {
    const LinearWeight* weight;
    DType activation;
    const void* x;  // T [rows, k]
    int64_t rows;   // <= kTaskRows
    int64_t n_begin;
    int64_t n_end;
    LinearOutput out;  // data is at the task's first row
    float* scratch;    // [task_scratch_floats(k)], 64-byte aligned
};

void linear_task_portable(const LinearTask& task);
#if defined(__x86_64__)
void linear_task_avx2(const LinearTask& task);
void linear_task_avx512(const LinearTask& task);
#endif

}  // namespace tinyllm::cpu
