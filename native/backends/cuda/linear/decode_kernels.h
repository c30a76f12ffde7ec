// The decode kernels, called by linear/decode.cu. All sum in the same order (linear/decode_order.h).
#pragma once

#include "backends/cuda/linear/decode_input.cuh"
#include "backends/cuda/linear/decode_weight.cuh"
#include "backends/cuda/linear/linear.h"

namespace tinyllm::cuda {

constexpr int kFewTokens = 8;

// Dynamic shared memory of a block where two fit an SM: at most `limit` bytes, at least `least`.
struct BlockShare {
    int32_t limit;
    int32_t least;
};

// Kernels overlap: the blocks of the next kernel start on an SM while this one runs. Each kernel should get one block
// on every SM. With two blocks on one SM and none on another it takes twice as long, and all kernels after it inherit
// the places. So the shared memory of an SM is cut into two unequal shares, and neighbours take different ones
// (ops/launch_hints.h). The larger share exists once per SM. With too few blocks for the SMs this does not matter, and
// each kernel takes what it needs.
BlockShare block_share(const LaunchHints& hints, unsigned blocks);

// Whether linear_decode_few_tokens takes `tokens` tokens: x must fit in shared memory together with the pipeline.
bool fits_few_tokens(const DecodeWeight& weight, bool quantized, int64_t tokens, bool normed);

// GEMV and small GEMM: up to kFewTokens tokens.
void linear_decode_few_tokens(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, bool quantized,
                              const DecodeInput& input, const LinearOutput& out);

// The kernels for more tokens take no norm. With split-K (weight.k_splits > 1) they leave y to reduce_splits() and
// write
//   partial: float [weight.k_splits, tokens, n_padded]

// mma.sync: any device and alignment. Up to max_many_tokens_sm80() tokens.
void linear_decode_many_tokens_sm80(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight,
                                    bool quantized, const DecodeInput& input, float* partial, const LinearOutput& out);

// Tokens that linear_decode_many_tokens_sm80 takes on this device: kManyTokens, or half where shared memory is small.
int64_t max_many_tokens_sm80(const DecodeWeight& weight, bool quantized);

// wgmma: DeviceTraits::sm90a and input.aligned. Up to kManyTokens tokens.
void linear_decode_many_tokens_sm90(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight,
                                    bool quantized, const DecodeInput& input, float* partial, const LinearOutput& out);

// The second kernel of split-K: adds the K splits of `partial` and writes y.
void reduce_splits(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, const float* partial,
                   int32_t tokens, const LinearOutput& out);

}  // namespace tinyllm::cuda
