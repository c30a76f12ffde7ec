// The search for scales on the GPU.
#pragma once

#include <cuda_runtime_api.h>

#include "backends/cuda/loading/quantize.h"

namespace tinyllm::cuda {

// Enqueues choose_scales() of quantization/scale_search.h for the rows of `raw`, with the same bits. importance:
// [raw.cols] in device memory, null for equally; scales: device memory, written, [raw.num_rows, groups]. A group with a
// value that quantize_rows() refuses gets some scale. Throws CudaError.
void choose_scales(cudaStream_t cuda_stream, const RawRows& raw, int32_t group_length, const float* importance,
                   f16* scales);

}  // namespace tinyllm::cuda
