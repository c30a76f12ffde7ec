// The rope_table op: cosines and sines of every row, computed once per step and used by all layers.
#include <cmath>

#include "backends/cpu/cpu_backend.h"
#include "core/parallel.h"
#include "ops/rope.h"

namespace tinyllm::cpu {

void CpuBackend::rope_table(const StepBatch& batch, const RopeParams& rope, float* cos_sin) {
    const int64_t half = rope.rotary_dim / 2;
    // A sine costs about as much as 16 elements of the loops that rows_per_share knows.
    parallel_for(batch.num_rows, rows_per_share(int64_t{16} * rope.rotary_dim), [&](int, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            float* cos = cos_sin + row * rope.rotary_dim;
            float* sin = cos + half;
            const float position = static_cast<float>(batch.positions[row]);
            const bool stretched = rope.dynamic && batch.rope_lens[row] > rope.original_max_seq_len;
            const double theta = !stretched ? 0
                                            : dynamic_rope_theta(rope.theta, rope.factor, rope.original_max_seq_len,
                                                                 rope.rotary_dim, batch.rope_lens[row]);
            for (int64_t i = 0; i < half; ++i) {
                const float inv_freq =
                    stretched ? static_cast<float>(std::pow(theta, -2.0 * static_cast<double>(i) / rope.rotary_dim))
                              : rope.inv_freq[i];
                // In float, as transformers computes it: at long contexts the rounding of the angle is visible.
                const float angle = position * inv_freq;
                cos[i] = std::cos(angle) * rope.attention_factor;
                sin[i] = std::sin(angle) * rope.attention_factor;
            }
        }
    });
}

}  // namespace tinyllm::cpu
