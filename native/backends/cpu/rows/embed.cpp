// The embed op: rows of the embedding table, dequantised where it is the int8 output matrix of tied embeddings.
#include <cstring>

#include "backends/cpu/cpu_backend.h"
#include "core/parallel.h"

namespace tinyllm::cpu {

void CpuBackend::embed(const StepBatch& batch, const LinearWeight& table, uint32_t* seen, void* hidden) {
    if (seen != nullptr) {
        // On one thread: two rows may set bits of the same word.
        const int64_t words = (table.n + 31) / 32;
        for (int32_t row = 0; row < batch.num_rows; ++row) {
            const int32_t token = batch.token_ids[row];
            if (batch.slots[row] >= 0) seen[batch.slots[row] * words + token / 32] |= 1u << (token % 32);
        }
    }
    const bool quantized = table.quantization == QuantizationType::W8A16;
    const int64_t k = table.k, row_bytes = k * static_cast<int64_t>(dtype_size(batch.dtype));
    const int64_t groups = quantized ? (k + table.group_length - 1) / table.group_length : 0;
    const RowKernels& kernels = kernels_.rows(batch.dtype);
    parallel_for(batch.num_rows, rows_per_share(k), [&](int, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const int64_t token = batch.token_ids[row];
            char* out = static_cast<char*>(hidden) + row * row_bytes;
            if (quantized)
                kernels.dequantize(static_cast<const int8_t*>(table.data) + token * k,
                                   static_cast<const f16*>(table.scales) + token * groups, table.group_length, k, out);
            else
                std::memcpy(out, static_cast<const char*>(table.data) + token * row_bytes, row_bytes);
        }
    });
}

}  // namespace tinyllm::cpu
