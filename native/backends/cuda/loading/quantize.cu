// W8A16 quantisation of checkpoint rows, one warp per (row, group):
//   scale = the given one, or f16(max |w| / 127); q = clamp(round_half_even(w / scale), -127, 127)
// and for unquantised weights the conversion to T, in groups of kPlainGroup inputs.
//
//   raw: float, f16 or bf16 [num_rows, cols]; given scales: f16 [num_rows, groups] or null
//   weight: int8 or T [n_padded, k_padded] packed; scales: f16 [groups, n_padded]
// Reads the raw values twice (the second time from L1) and writes a half or a quarter of their bytes. That runs at
// device memory speed, far above the PCIe link that the values arrive by.
#include "backends/cuda/loading/quantize.h"

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/runtime/launch.h"
#include "quantization/layout.h"

namespace tinyllm::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int32_t kPlainGroup = 256;
constexpr float kLargestInt8 = 127.0f;

struct Target {
    void* data;
    __half* scales;  // null where not quantised
    int32_t n_padded;
    int32_t k_padded;
    int32_t group_length;
    int32_t num_groups;
    RowMap rows;
};

// q of a value; everything is 0 in a group whose scale is 0.
__device__ int8_t quantized(float value, float scale) {
    if (scale == 0) return 0;
    return static_cast<int8_t>(fminf(fmaxf(rintf(value / scale), -kLargestInt8), kLargestInt8));
}

// PRECOND: block kWarps * 32, one warp per (row, group), groups of a row consecutive; T is the type of unquantised
// weights.
template <typename Raw, typename T>
__global__ void quantize_kernel(const Raw* raw, const __half* given_scales, int64_t num_rows, int32_t cols,
                                int64_t first_row, Target target, unsigned long long* first_bad) {
    const int lane = threadIdx.x % kWarpSize;
    const int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
    const int64_t row = index / target.num_groups;
    if (row >= num_rows) return;
    const int32_t group = static_cast<int32_t>(index % target.num_groups);
    const int32_t begin = group * target.group_length, end = min(begin + target.group_length, cols);
    const Raw* in = raw + row * cols;

    // A value is judged by what storing it would need, so that the first bad one is the same for every grouping.
    const bool quantize = target.scales != nullptr;
    float largest = 0;
    for (int32_t k = begin + lane; k < end; k += kWarpSize) {
        const float value = widen(in[k]);
        const float stored = quantize ? widen(round_to<__half>(value / kLargestInt8)) : widen(round_to<T>(value));
        if (!isfinite(stored)) atomicMin(first_bad, static_cast<unsigned long long>((first_row + row) * cols + k));
        largest = fmaxf(largest, fabsf(value));
    }
    const int64_t out_row = target.rows.start + (first_row + row) * target.rows.stride;
    const int64_t out = out_row * target.k_padded;
    // The last group of a row also fills the padding.
    const int32_t out_end = group + 1 == target.num_groups ? target.k_padded : end;
    if (!quantize) {
        for (int32_t k = begin + lane; k < out_end; k += kWarpSize)
            static_cast<T*>(target.data)[out + cuda_packed_col(k)] = round_to<T>(k < cols ? widen(in[k]) : 0.0f);
        return;
    }
    // `index` counts the groups of these rows one after the other, as the given scales lie.
    const __half scale =
        given_scales == nullptr ? round_to<__half>(warp_reduce(largest, Max{}) / kLargestInt8) : given_scales[index];
    if (lane == 0) target.scales[int64_t{group} * target.n_padded + out_row] = scale;
    for (int32_t k = begin + lane; k < out_end; k += kWarpSize)
        static_cast<int8_t*>(target.data)[out + cuda_packed_col(k)] =
            k < cols ? quantized(widen(in[k]), widen(scale)) : int8_t{0};
}

LinearLayout layout_of(const LinearWeight& weight) {
    return linear_layout(DeviceKind::Cuda, weight.quantization, weight.dtype, weight.n, weight.k, weight.group_length);
}

template <typename Raw, typename T>
void launch(cudaStream_t cuda_stream, const RawRows& raw, const Target& target, unsigned long long* first_bad) {
    const unsigned blocks = ceil_div(raw.num_rows * target.num_groups, kWarps);
    quantize_kernel<Raw, T><<<blocks, kWarps * kWarpSize, 0, cuda_stream>>>(
        static_cast<const Raw*>(raw.data), reinterpret_cast<const __half*>(raw.scales), raw.num_rows,
        static_cast<int32_t>(raw.cols), raw.first_row, target, first_bad);
    TL_CUDA_CHECK_LAUNCH("quantize_kernel");
}

}  // namespace

void quantize_rows(cudaStream_t cuda_stream, const RawRows& raw, const LinearWeight& weight, const RowMap& rows,
                   unsigned long long* first_bad) {
    if (raw.num_rows == 0) return;
    const LinearLayout layout = layout_of(weight);
    const bool quantize = weight.quantization == QuantizationType::W8A16;
    const int32_t group_length = quantize ? weight.group_length : kPlainGroup;
    const Target target{weight.data,
                        static_cast<__half*>(weight.scales),
                        static_cast<int32_t>(layout.n_padded),
                        static_cast<int32_t>(layout.k_padded),
                        group_length,
                        static_cast<int32_t>(ceil_div(raw.cols, group_length)),
                        rows};
    with_activation(weight.dtype, [&](auto type) {
        using T = decltype(type);
        with_raw(raw.dtype, [&](auto raw_type) { launch<decltype(raw_type), T>(cuda_stream, raw, target, first_bad); });
    });
}

void zero_padding_rows(cudaStream_t cuda_stream, const LinearWeight& weight) {
    const LinearLayout layout = layout_of(weight);
    const int64_t padding = layout.n_padded - weight.n;
    if (padding == 0) return;
    const int64_t row_bytes = layout.k_padded * layout.element_size;
    TL_CUDA_CHECK(
        cudaMemsetAsync(static_cast<char*>(weight.data) + weight.n * row_bytes, 0, padding * row_bytes, cuda_stream));
    if (layout.groups == 0) return;
    // The padding of each group's scales: a column of the [groups, n_padded] array.
    TL_CUDA_CHECK(cudaMemset2DAsync(static_cast<__half*>(weight.scales) + weight.n, layout.n_padded * sizeof(__half), 0,
                                    padding * sizeof(__half), layout.groups, cuda_stream));
}

}  // namespace tinyllm::cuda
