// The qkv op: norm, projection, then per head Q/K norm, RoPE and the append to the KV cache.
#include <cstring>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/rows/norm.h"
#include "core/parallel.h"
#include "ops/kv_cache.h"

namespace tinyllm::cpu {

namespace {

// What finishes the heads of projected rows.
struct HeadFinisher {
    const RowKernels& kernels;
    const AttentionShape& shape;
    const RopeParams& rope;
    int64_t element;  // bytes of a T

    // Optional RMSNorm, then RoPE of one head, from `head` (which serves as scratch) to `out`; they may be the same.
    void norm_and_rotate(const NormWeight& norm, const float* cos, char* head, char* out) const {
        const int64_t half = rope.rotary_dim / 2, rotated_bytes = rope.rotary_dim * element;
        if (norm.weight != nullptr) kernels.rms_norm(head, norm.weight, norm.eps, shape.head_dim, head);
        kernels.rotate(head, cos, cos + half, half, out);
        if (out != head)
            std::memcpy(out + rotated_bytes, head + rotated_bytes, shape.head_dim * element - rotated_bytes);
    }
};

}  // namespace

void CpuBackend::qkv(const StepBatch& batch, const QkvWeights& weights, const AttentionShape& shape,
                     const RopeParams& rope, const float* cos_sin, const void* hidden, void* normed, void* qkv,
                     const KvLayer& kv) {
    const int64_t row_dim = shape.qkv_dim();
    rms_norm_rows(kernels_, batch.dtype, weights.input_norm, hidden, nullptr, batch.num_rows, weights.qkv.k, normed);
    run_linear(batch, weights.qkv, normed, batch.num_rows, {LinearOutput::Kind::Store, qkv, row_dim});

    const HeadFinisher finish{kernels_.rows(batch.dtype), shape, rope, static_cast<int64_t>(dtype_size(batch.dtype))};
    const int64_t head_bytes = shape.head_dim * finish.element;
    parallel_for(batch.num_rows, rows_per_share(row_dim), [&](int, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            if (batch.slots[row] < 0) continue;
            const float* cos = cos_sin + row * rope.rotary_dim;
            char* head = static_cast<char*>(qkv) + row * row_dim * finish.element;
            for (int32_t h = 0; h < shape.num_heads; ++h, head += head_bytes)
                finish.norm_and_rotate(weights.q_norm, cos, head, head);

            const int32_t position = batch.positions[row];
            const int64_t page =
                batch
                    .block_table[static_cast<int64_t>(batch.slots[row]) * batch.pages_per_seq + position / kPageTokens];
            const auto cache_row = [&](int32_t which, int32_t kv_head) {
                const int64_t tile = kv_tile_offset(page, which, kv_head, shape.num_kv_heads, shape.head_dim);
                return static_cast<char*>(kv.data) + tile * finish.element + position % kPageTokens * head_bytes;
            };
            for (int32_t h = 0; h < shape.num_kv_heads; ++h, head += head_bytes)
                finish.norm_and_rotate(weights.k_norm, cos, head, cache_row(0, h));
            for (int32_t h = 0; h < shape.num_kv_heads; ++h, head += head_bytes)
                std::memcpy(cache_row(1, h), head, head_bytes);
        }
    });
}

}  // namespace tinyllm::cpu
