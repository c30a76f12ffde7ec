// The scale of least error for each group of int8 weights: quantization/scale_search.h says which, and this gives its
// bits. So every operation here rounds once (the _rn intrinsics are never contracted to FMA) and sums have the order
// given there.
//
//   raw: float, f16 or bf16 [num_rows, cols]; importance: float [cols] or null; scales: f16 [num_rows, groups]
//
// A warp takes a group, and each of its lanes one factor r: it walks the whole group with sixteen sums in registers, as
// the host does. All lanes read the same weight at a time, which shared memory broadcasts, so nothing but arithmetic
// takes time: 10 operations per weight and factor. 31 of 32 lanes have a factor.
#include "backends/cuda/loading/scale_search.h"

#include <algorithm>

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/runtime/launch.h"
#include "core/lanes.h"
#include "quantization/scale_search.h"

namespace tinyllm::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kStagedWeights = 256;  // weights of a group that are in shared memory at a time
constexpr float kLargestInt8 = 127.0f;
constexpr int kAbsmaxLane = 100 - kFirstFactor;  // the lane of r = 1
static_assert(kLastFactor - kFirstFactor < kWarpSize && kStagedWeights % kLanes == 0);

// Part of a group, padded with zeros.
struct alignas(16) StagedWeights {
    float weights[kStagedWeights];
    float importance[kStagedWeights];
};

// importance * (w - q * scale)^2
__device__ float weighted_error(float weight, float importance, float scale, float inverse) {
    constexpr float kRound = 0x1.8p23f;  // adding and taking it away rounds to nearest even
    float q = __fmul_rn(weight, inverse);
    q = fmaxf(fminf(q, kLargestInt8), -kLargestInt8);
    q = __fsub_rn(__fadd_rn(q, kRound), kRound);
    const float error = __fsub_rn(weight, __fmul_rn(q, scale));
    return __fmul_rn(importance, __fmul_rn(error, error));
}

template <typename Raw>
__device__ float absmax_of(const Raw* in, int32_t begin, int32_t end) {
    float largest = 0;
    for (int32_t k = begin + static_cast<int32_t>(threadIdx.x % kWarpSize); k < end; k += kWarpSize)
        largest = fmaxf(largest, fabsf(widen(in[k])));
    return warp_reduce(largest, Max{});
}

// Brings inputs [begin, end), at most kStagedWeights, to shared memory; returns their count with the padding to whole
// lanes.
template <typename Raw>
__device__ int32_t stage(const Raw* in, const float* importance, int32_t begin, int32_t end, StagedWeights& staged) {
    const int32_t count = min(end - begin, kStagedWeights), padded = (count + kLanes - 1) / kLanes * kLanes;
    __syncwarp();  // the lanes have read what was there before
    for (int32_t i = static_cast<int32_t>(threadIdx.x % kWarpSize); i < padded; i += kWarpSize) {
        staged.weights[i] = i < count ? widen(in[begin + i]) : 0.0f;
        staged.importance[i] = i >= count ? 0.0f : importance == nullptr ? 1.0f : importance[begin + i];
    }
    __syncwarp();
    return padded;
}

// Weighted square error of the group under this lane's scale.
template <typename Raw>
__device__ float rounding_error(const Raw* in, const float* importance, int32_t begin, int32_t end, float scale,
                                StagedWeights& staged) {
    using Four = Vector<float, 4>;
    const float inverse = __fdiv_rn(1.0f, scale);
    float sums[kLanes] = {};
    for (int32_t at = begin; at < end; at += kStagedWeights) {
        const int32_t count = stage(in, importance, at, end, staged);
        for (int32_t i = 0; i < count; i += kLanes) {
#pragma unroll
            for (int j = 0; j < kLanes; j += 4) {
                const Four weights = *reinterpret_cast<const Four*>(staged.weights + i + j);
                const Four counts = *reinterpret_cast<const Four*>(staged.importance + i + j);
#pragma unroll
                for (int l = 0; l < 4; ++l)
                    sums[j + l] =
                        __fadd_rn(sums[j + l], weighted_error(weights.element[l], counts.element[l], scale, inverse));
            }
        }
    }
    float sum = 0;
#pragma unroll
    for (const float lane : sums) sum = __fadd_rn(sum, lane);
    return sum;
}

// PRECOND: block kWarps * 32, one warp per (row, group), groups of a row consecutive.
template <typename Raw>
__global__ void __launch_bounds__(kWarps* kWarpSize)
    choose_scales_kernel(const Raw* raw, const float* importance, int64_t num_rows, int32_t cols, int32_t group_length,
                         int32_t num_groups, __half* scales) {
    __shared__ StagedWeights staged[kWarps];
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    const int64_t index = int64_t{blockIdx.x} * kWarps + warp;
    const int64_t row = index / num_groups;
    if (row >= num_rows) return;
    const int32_t begin = static_cast<int32_t>(index % num_groups) * group_length,
                  end = min(begin + group_length, cols);
    const Raw* in = raw + row * cols;

    const float unit = __fdiv_rn(absmax_of(in, begin, end), kLargestInt8);
    const float factor = __fdiv_rn(static_cast<float>(kFirstFactor + lane), 100.0f);
    const __half scale = round_to<__half>(__fmul_rn(unit, factor));
    const float width = widen(scale);
    const bool usable = width > 0 && isfinite(width) && lane <= kLastFactor - kFirstFactor;
    int best = kAbsmaxLane;
    if (__ballot_sync(kFullWarp, usable) >> kAbsmaxLane & 1) {
        const float error = rounding_error(in, importance, begin, end, width, staged[warp]);
        // Not usable, or no number: never the best.
        const float judged = usable && error < INFINITY ? error : INFINITY;
        const float least = warp_reduce(judged, [](float a, float b) { return fminf(a, b); });
        const unsigned found = __ballot_sync(kFullWarp, judged == least);
        if (!(found >> kAbsmaxLane & 1)) best = __ffs(static_cast<int>(found)) - 1;
    }
    if (lane == best) scales[index] = scale;
}

template <typename Raw>
void launch(cudaStream_t cuda_stream, const RawRows& raw, int32_t group_length, const float* importance, f16* scales) {
    const int32_t num_groups = static_cast<int32_t>(ceil_div(raw.cols, group_length));
    choose_scales_kernel<Raw><<<ceil_div(raw.num_rows * num_groups, kWarps), kWarps * kWarpSize, 0, cuda_stream>>>(
        static_cast<const Raw*>(raw.data), importance, raw.num_rows, static_cast<int32_t>(raw.cols), group_length,
        num_groups, reinterpret_cast<__half*>(scales));
    TL_CUDA_CHECK_LAUNCH("choose_scales_kernel");
}

}  // namespace

void choose_scales(cudaStream_t cuda_stream, const RawRows& raw, int32_t group_length, const float* importance,
                   f16* scales) {
    if (raw.num_rows == 0) return;
    with_raw(raw.dtype, [&](auto type) { launch<decltype(type)>(cuda_stream, raw, group_length, importance, scales); });
}

}  // namespace tinyllm::cuda
