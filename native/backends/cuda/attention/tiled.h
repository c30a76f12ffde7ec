// Attention on the tensor cores: what attention.cu chooses from besides attention/any_head_dim.h.
#pragma once

#include <type_traits>

#include "backends/cuda/attention/attention.h"
#include "backends/cuda/attention/split.h"
#include "backends/cuda/runtime/device_info.h"

namespace tinyllm::cuda {

// Calls body(std::integral_constant<int, head_dim>{}). PRECOND: has_tiled_attention(head_dim).
template <typename Body>
void with_head_dim(int32_t head_dim, Body&& body) {
    switch (head_dim) {
        case 64:
            return body(std::integral_constant<int, 64>{});
        case 80:
            return body(std::integral_constant<int, 80>{});
        case 96:
            return body(std::integral_constant<int, 96>{});
        case 128:
            return body(std::integral_constant<int, 128>{});
        default:
            return body(std::integral_constant<int, 256>{});
    }
}

// Shared memory that a block of the kernel takes; a device that has less takes attention/any_head_dim.cu.
int32_t attention_decode_shared_bytes(int32_t head_dim);
int32_t attention_prefill_shared_bytes(int32_t head_dim);

// As attention for Phase::Decode. PRECOND: has_tiled_attention(shape.head_dim), and scratch has
// attention_decode_scratch_bytes().
void attention_decode(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch, const AttentionShape& shape,
                      const LaunchHints& hints, const DecodeRope& rope, DType activation, const void* qkv,
                      const KvLayer& kv, void* out);

// As attention for Phase::Prefill. PRECOND: has_tiled_attention(shape.head_dim).
void attention_prefill(cudaStream_t cuda_stream, const StepBatch& batch, const AttentionShape& shape, DType activation,
                       const void* qkv, const KvLayer& kv, void* out);

}  // namespace tinyllm::cuda
