// RoPE angles of a step, computed once and used by all layers:
//   cos_sin[r] = attention_factor * (cos(angle(r, 0..)), sin(angle(r, 0..))), angle(r, i) = positions[r] * inv_freq[i]
// Dynamic NTK stretches theta for sequences beyond the original context (ops/rope.h); those angles follow from
// rope_lens[r].
//
//   cos_sin: float [num_rows, 2, rotary_dim / 2]
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/rows/rows.h"
#include "backends/cuda/runtime/launch.h"
#include "ops/rope.h"

namespace tinyllm::cuda {

namespace {

constexpr int kThreads = 128;

// PRECOND: 1-D grid and block, one thread per (row, pair).
__global__ void rope_table_kernel(RopeParams rope, const int32_t* positions, const int32_t* rope_lens, int32_t num_rows,
                                  float* cos_sin) {
    wait_for_predecessor();
    release_successor();
    const int32_t half = rope.rotary_dim / 2;
    const int32_t index = blockIdx.x * kThreads + threadIdx.x;
    const int32_t row = index / half, pair = index % half;
    if (row >= num_rows) return;
    float inv_freq = rope.inv_freq[pair];
    if (rope.dynamic && rope_lens[row] > rope.original_max_seq_len) {
        // In double, as transformers computes it: theta is raised to powers near 1, where float loses digits.
        const double theta =
            dynamic_rope_theta(rope.theta, rope.factor, rope.original_max_seq_len, rope.rotary_dim, rope_lens[row]);
        inv_freq = static_cast<float>(1.0 / pow(theta, 2.0 * pair / rope.rotary_dim));
    }
    float sine, cosine;
    sincosf(static_cast<float>(positions[row]) * inv_freq, &sine, &cosine);
    float* out = cos_sin + int64_t{row} * rope.rotary_dim;
    out[pair] = rope.attention_factor * cosine;
    out[half + pair] = rope.attention_factor * sine;
}

}  // namespace

void rope_table(cudaStream_t cuda_stream, const StepBatch& batch, const RopeParams& rope, float* cos_sin) {
    const int64_t pairs = int64_t{batch.num_rows} * (rope.rotary_dim / 2);
    if (pairs == 0) return;
    launch_overlapped("launch of rope_table_kernel", rope_table_kernel, {ceil_div(pairs, kThreads), kThreads},
                      cuda_stream, rope, batch.positions, batch.rope_lens, batch.num_rows, cos_sin);
}

}  // namespace tinyllm::cuda
