// Which decode kernel computes a linear layer, and what the kernels need to know about the weight.
#include "backends/cuda/linear/decode.h"

#include <algorithm>

#include "backends/cuda/linear/decode_kernels.h"
#include "backends/cuda/linear/prefill.h"
#include "backends/cuda/rows/rows.h"
#include "backends/cuda/runtime/device_info.h"
#include "backends/cuda/runtime/launch.h"
#include "quantization/layout.h"

namespace tinyllm::cuda {

namespace {

int32_t log2_of(int32_t value) {
    int32_t log = 0;
    while ((1 << log) < value) ++log;
    return log;
}

DecodeWeight describe(const LinearWeight& weight) {
    const LinearLayout layout =
        linear_layout(DeviceKind::Cuda, weight.quantization, weight.dtype, weight.n, weight.k, weight.group_length);
    DecodeWeight result = {};
    result.data = static_cast<const uint8_t*>(weight.data);
    result.scales = static_cast<const __half*>(weight.scales);
    result.bias = weight.bias;
    result.n = weight.n;
    result.k = weight.k;
    result.k_padded = static_cast<int32_t>(layout.k_padded);
    result.num_tiles = static_cast<int32_t>(layout.n_padded / kTileRows);
    result.k_blocks = static_cast<int32_t>((layout.k_padded + kKBlock - 1) / kKBlock);
    result.groups = static_cast<int32_t>(layout.groups);
    result.group_shift = 30;
    result.groups_per_k_block = 1;
    if (layout.groups > 1) {
        TL_CHECK(weight.group_length >= 32 && (weight.group_length & (weight.group_length - 1)) == 0);
        result.group_shift = log2_of(weight.group_length);
        result.groups_per_k_block = std::max(1, kKBlock / weight.group_length);
    }
    result.k_splits = decode_k_splits(weight.n, weight.k);
    result.hints = weight.hints;
    return result;
}

}  // namespace

BlockShare block_share(const LaunchHints& hints, unsigned blocks) {
    constexpr int32_t kReserved = 1024;  // shared memory that the system takes per block
    constexpr int32_t kDifference = 2048;
    const int32_t half = (device_traits().max_shared_bytes + kReserved) / 2 - kReserved;
    const int32_t larger = half + kDifference / 2;
    if (hints.larger_share) return {larger, fills_sms(blocks) ? larger : 0};
    return {half - kDifference / 2, 0};
}

void linear_decode(cudaStream_t cuda_stream, Scratch scratch, DType activation, const LinearWeight& weight,
                   const InputNorm& norm, const void* x, int64_t x_row_stride, int64_t tokens,
                   const LinearOutput& out) {
    if (tokens == 0) return;
    const bool quantized = weight.quantization == QuantizationType::W8A16;
    const DecodeWeight packed = describe(weight);
    DecodeInput input = {};
    input.x = x;
    input.row_stride = x_row_stride;
    input.tokens = static_cast<int32_t>(tokens);
    input.aligned = has_aligned_rows(x, x_row_stride, weight.k);
    if (norm.norm.weight != nullptr) {
        TL_CHECK(x_row_stride == weight.k);
        if (input.aligned && fits_few_tokens(packed, quantized, tokens, true)) {
            input.norm = norm.norm.weight;
            input.norm_eps = norm.norm.eps;
            input.row_index = norm.row_index;
        } else {
            rms_norm(cuda_stream, activation, norm.norm, weight.k, x, norm.row_index, static_cast<int32_t>(tokens),
                     norm.normed);
            input.x = norm.normed;
            input.aligned = has_aligned_rows(norm.normed, x_row_stride, weight.k);
        }
    }
    if (fits_few_tokens(packed, quantized, tokens, input.norm != nullptr))
        return linear_decode_few_tokens(cuda_stream, activation, packed, quantized, input, out);
    TL_CHECK(linear_decode_scratch_bytes(weight.n, weight.k, tokens) <= scratch.bytes);

    const bool use_sm90 = device_traits().sm90a && input.aligned;
    const int64_t block_tokens = use_sm90 ? kManyTokens : max_many_tokens_sm80(packed, quantized);
    const int64_t out_element = out.kind == LinearOutput::Kind::StoreFloat ? 4 : 2;
    float* const partial = static_cast<float*>(scratch.data);
    LinearOutput block_out = out;
    for (int64_t first = 0; first < tokens; first += block_tokens) {
        input.tokens = static_cast<int32_t>(std::min(block_tokens, tokens - first));
        if (use_sm90)
            linear_decode_many_tokens_sm90(cuda_stream, activation, packed, quantized, input, partial, block_out);
        else
            linear_decode_many_tokens_sm80(cuda_stream, activation, packed, quantized, input, partial, block_out);
        if (packed.k_splits > 1) reduce_splits(cuda_stream, activation, packed, partial, input.tokens, block_out);
        input.x = static_cast<const char*>(input.x) + block_tokens * input.row_stride * 2;
        block_out.data = static_cast<char*>(block_out.data) + block_tokens * out.row_stride * out_element;
    }
}

}  // namespace tinyllm::cuda
