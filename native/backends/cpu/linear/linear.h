// Linear layers of the CPU backend: out = x W^T + b with a fused epilogue.
//
// Products and sums are fp32; only the final store rounds to T. An int8 weight times its f16 scale is exact in fp32, so
// quantised weights are dequantised without error while they are read. For one instruction set, an output is the same
// bits whatever `rows` is and however the work is split: the order of its sum depends on k alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/cpu/simd/isa.h"
#include "core/dtype.h"
#include "ops/ops.h"

namespace tinyllm::cpu {

// The epilogue: what becomes of the sums y = x W^T + b, float [rows, n].
struct LinearOutput {
    enum class Kind {
        Store,       // data: T [rows, n] = y
        AddTo,       // data: T [rows, n] += y
        SiluMul,     // data: T [rows, n / 2]: silu(y[2i]) * y[2i + 1]; n is even
        StoreFloat,  // data: float [rows, n] = y
    };
    Kind kind = Kind::Store;
    void* data = nullptr;
    int64_t row_stride = 0;  // elements from a row of data to the next
};

// Working memory of the kernels, 64-byte aligned.
struct LinearScratch {
    void* data = nullptr;
    int64_t bytes = 0;
};

// Bytes of scratch that linear() needs for layers of at most max_k inputs.
int64_t linear_scratch_bytes(int64_t max_k);

// Computes one layer for x: T [rows, k], contiguous, with T = `activation`. Runs on all threads of the pool.
// `isa` must be one that the processor has. Where the weight is not quantised its element type is T. group_length is a
// multiple of 16, or at least k.
void linear(CpuIsa isa, DType activation, const LinearWeight& weight, const void* x, int64_t rows,
            const LinearOutput& out, const LinearScratch& scratch);

}  // namespace tinyllm::cpu
