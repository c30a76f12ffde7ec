// The decode kernels, called by linear/decode.cu. They sum in the same order (linear/decode_order.h).
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

// Kernels overlap: the next one's blocks take their places while this one runs. Each shall get one place on every SM;
// two of its blocks on one, and none on another, and it takes twice as long, and all that follow inherit the places. So
// an SM's shared memory is cut into unequal parts. Layers that add to the residual stream take the larger one, of which
// an SM has no second; those between them take the smaller one, beside it. Where there are few blocks for the SMs,
// nothing of this matters: then each takes what it needs.
BlockShare block_share(LinearOutput::Kind kind, unsigned blocks);

// Whether linear_decode_few_tokens takes `tokens` tokens: x must fit in shared memory beside the ring.
bool fits_few_tokens(const DecodeWeight& weight, bool quantized, int64_t tokens, bool normed);

// Up to kFewTokens rows.
void linear_decode_few_tokens(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, bool quantized,
                              const DecodeInput& input, const LinearOutput& out);

// The kernels for more tokens take no norm. Where weight.k_splits > 1 they leave y to reduce_splits() and write
//   partial: float [weight.k_splits, tokens, n_padded]

// mma.sync: any device and alignment. Up to max_many_tokens_sm80() rows.
void linear_decode_many_tokens_sm80(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight,
                                    bool quantized, const DecodeInput& input, float* partial, const LinearOutput& out);

// Rows that linear_decode_many_tokens_sm80 takes on this device: kManyTokens, or half where shared memory is small.
int64_t max_many_tokens_sm80(const DecodeWeight& weight, bool quantized);

// wgmma: DeviceTraits::sm90a and input.aligned. Up to kManyTokens rows.
void linear_decode_many_tokens_sm90(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight,
                                    bool quantized, const DecodeInput& input, float* partial, const LinearOutput& out);

// Adds the K splits of `partial` and writes y.
void reduce_splits(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, const float* partial,
                   int32_t tokens, const LinearOutput& out);

}  // namespace tinyllm::cuda
