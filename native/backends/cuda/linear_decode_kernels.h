// The two decode kernels, called by linear_decode.cu. They sum in the same order (linear_decode_split.h).
#pragma once

#include "backends/cuda/linear.h"
#include "backends/cuda/linear_decode_input.cuh"
#include "backends/cuda/linear_decode_ring.cuh"

namespace tinyllm {

constexpr int kFewRows = 8;
constexpr int kManyRows = 64;

// Whether linear_decode_few takes `rows` rows of x: x must fit in shared memory beside the ring.
bool fits_few(const DecodeWeight& weight, bool quantized, int64_t rows, bool normed);

// Up to kFewRows rows.
void linear_decode_few(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, const CUtensorMap& map,
                       bool quantized, const DecodeInput& input, const LinearOutput& out);

// Rows that linear_decode_many takes at a time on this device: kManyRows, or half where shared memory is small.
int64_t max_many_rows(const DecodeWeight& weight, bool quantized);

// Up to max_many_rows() rows, no norm. partial: float [weight.chunks, rows, n_padded] where weight.chunks > 1.
void linear_decode_many(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, const CUtensorMap& map,
                        bool quantized, const DecodeInput& input, float* partial, const LinearOutput& out);

}  // namespace tinyllm
