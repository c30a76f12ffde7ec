// Embedding lookup: hidden[r] = table[token_ids[r]], and the bit of each token that its sequence has now seen.
//
//   table: int8 or T [vocab, k_padded] in the packed order of quantization/layout.h, scales f16 [groups, n_padded]
//   hidden: T [num_rows, hidden_dim]
// Moves one table row and one hidden row per token: a few kilobytes, so what counts is the launch.
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/packed_weight.cuh"
#include "backends/cuda/rows/rows.h"
#include "backends/cuda/runtime/launch.h"

namespace tinyllm::cuda {

namespace {

constexpr int kThreads = 256;

// PRECOND: grid (num_rows, ceil(dim / kThreads)), block kThreads.
template <typename T>
__global__ void embed_kernel(PackedWeight table, const int32_t* token_ids, const int32_t* slots, uint32_t* seen,
                             T* hidden) {
    wait_for_predecessor();
    release_successor();
    const int32_t row = blockIdx.x, slot = slots[row];
    const int32_t token = slot < 0 ? 0 : token_ids[row];  // padding rows need some finite content
    const int32_t k = blockIdx.y * kThreads + threadIdx.x;
    if (k < table.k) hidden[int64_t{row} * table.k + k] = round_to<T>(table.value<T>(token, k));
    if (k == 0 && seen != nullptr && slot >= 0) {
        // Rows of one sequence share words, hence the atomic.
        const int32_t words = (table.n + 31) / 32;
        atomicOr(&seen[int64_t{slot} * words + token / 32], 1u << (token % 32));
    }
}

}  // namespace

void embed(cudaStream_t cuda_stream, const StepBatch& batch, const LinearWeight& table, uint32_t* seen, void* hidden) {
    if (batch.num_rows == 0) return;
    const LaunchShape shape{dim3(batch.num_rows, ceil_div(table.k, kThreads)), kThreads};
    with_activation(batch.dtype, [&](auto type) {
        using T = decltype(type);
        launch_overlapped("launch of embed_kernel", embed_kernel<T>, shape, cuda_stream, PackedWeight(table),
                          batch.token_ids, batch.slots, seen, static_cast<T*>(hidden));
    });
}

}  // namespace tinyllm::cuda
