#include "backends/cpu/rows/norm.h"

#include "core/parallel.h"

namespace tinyllm::cpu {

void rms_norm_rows(const CpuKernels& kernels, DType activation, const NormWeight& norm, const void* x,
                   const int32_t* row_of, int64_t rows, int64_t dim, void* out) {
    const RowKernels& row_kernels = kernels.rows(activation);
    const int64_t row_bytes = dim * static_cast<int64_t>(dtype_size(activation));
    parallel_for(rows, rows_per_share(dim), [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t row = row_of == nullptr ? i : row_of[i];
            row_kernels.rms_norm(static_cast<const char*>(x) + row * row_bytes, norm.weight, norm.eps, dim,
                                 static_cast<char*>(out) + i * row_bytes);
        }
    });
}

}  // namespace tinyllm::cpu
