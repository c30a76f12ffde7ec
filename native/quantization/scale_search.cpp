#include "quantization/scale_search.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/lanes.h"
#include "core/parallel.h"
#include "quantization/tensor_values.h"

namespace tinyllm {

namespace {

constexpr int64_t kElementGrain = 1 << 14;  // elements that are worth a thread

// Weighted square error of `count` weights (whole Lanes) that are rounded to multiples of `scale`. Adding and taking
// away 1.5 * 2^23 rounds to nearest even; w * (1 / scale) may fall on the other side of a tie than w / scale, where
// both neighbours are equally far.
TL_TARGET_CLONES float rounding_error(const float* weights, const float* importance, int64_t count, float scale) {
    constexpr float kRound = 0x1.8p23f;
    const Lanes largest = Lanes{} + 127.0f;
    const float inverse = 1.0f / scale;
    Lanes sums{};
    for (int64_t i = 0; i < count; i += kLanes) {
        Lanes w, weight;
        std::memcpy(&w, weights + i, sizeof w);
        std::memcpy(&weight, importance + i, sizeof weight);
        Lanes q = w * inverse;
        q = q < largest ? q : largest;
        q = q > -largest ? q : -largest;
        q = (q + kRound) - kRound;
        const Lanes error = w - q * scale;
        sums += weight * (error * error);
    }
    float lanes[kLanes];
    std::memcpy(lanes, &sums, sizeof lanes);
    return sum_of_lanes(lanes);
}

// The scale of one group; `weights` and `importance` are padded with zeros to whole Lanes.
f16 choose_scale(const float* weights, const float* importance, int64_t padded) {
    float absmax = 0;
    for (int64_t i = 0; i < padded; ++i) absmax = std::max(absmax, std::abs(weights[i]));
    const float unit = absmax / 127.0f;
    f16 best = from_float<f16>(unit);
    if (to_float(best) == 0 || std::isinf(to_float(best))) return best;
    float least = rounding_error(weights, importance, padded, to_float(best));
    for (int factor = kFirstFactor; factor <= kLastFactor && least > 0; ++factor) {
        const f16 scale = from_float<f16>(unit * (static_cast<float>(factor) / 100.0f));
        if (to_float(scale) == 0 || std::isinf(to_float(scale))) continue;
        const float error = rounding_error(weights, importance, padded, to_float(scale));
        if (!(error < least)) continue;
        least = error;
        best = scale;
    }
    return best;
}

}  // namespace

void choose_scales(const HostTensor& tensor, int32_t group_length, const float* importance, f16* scales) {
    const int64_t cols = tensor.cols, groups = (cols + group_length - 1) / group_length;
    const int64_t stride = padded_to_lanes(std::min<int64_t>(cols, group_length));
    const auto length = [&](int64_t group) { return std::min<int64_t>(group_length, cols - group * group_length); };
    std::vector<float> padded_importance(groups * stride);  // each group padded for itself
    for (int64_t group = 0; group < groups; ++group)
        for (int64_t i = 0; i < length(group); ++i)
            padded_importance[group * stride + i] = importance == nullptr ? 1.0f : importance[group * group_length + i];
    parallel_for(tensor.rows, std::max<int64_t>(1, kElementGrain / cols), [&](int, int64_t begin, int64_t end) {
        std::vector<float> weights(stride);
        for (int64_t row = begin; row < end; ++row)
            for (int64_t group = 0; group < groups; ++group) {
                const int64_t count = length(group);
                read_values(tensor, row * cols + group * group_length, count, weights.data());
                std::fill(weights.begin() + count, weights.end(), 0.0f);
                scales[row * groups + group] =
                    choose_scale(weights.data(), &padded_importance[group * stride], padded_to_lanes(count));
            }
    });
}

}  // namespace tinyllm
