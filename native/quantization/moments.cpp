#include "quantization/moments.h"

#include <algorithm>
#include <vector>

#include "core/lanes.h"
#include "core/parallel.h"
#include "quantization/tensor_values.h"

namespace tinyllm {

namespace {

constexpr int64_t kElementGrain = 1 << 14;  // elements that are worth a thread
constexpr int64_t kColumnGrain = 64;

// Sum of values[i]^2 * moments[i] over `count` elements (whole Lanes).
TL_TARGET_CLONES float weighted_squares(const float* values, const float* moments, int64_t count) {
    Lanes sums{};
    for (int64_t i = 0; i < count; i += kLanes) {
        Lanes value, moment;
        std::memcpy(&value, values + i, sizeof value);
        std::memcpy(&moment, moments + i, sizeof moment);
        sums += value * value * moment;
    }
    float lanes[kLanes];
    std::memcpy(lanes, &sums, sizeof lanes);
    return sum_of_lanes(lanes);
}

}  // namespace

void output_moments(const HostTensor& tensor, const float* moments, float* out) {
    const int64_t cols = tensor.cols, padded = padded_to_lanes(cols);
    std::vector<float> padded_moments(padded);
    std::copy_n(moments, cols, padded_moments.begin());
    parallel_for(tensor.rows, std::max<int64_t>(1, kElementGrain / cols), [&](int, int64_t begin, int64_t end) {
        std::vector<float> values(padded);
        for (int64_t row = begin; row < end; ++row) {
            read_values(tensor, row * cols, cols, values.data());
            out[row] = weighted_squares(values.data(), padded_moments.data(), padded);
        }
    });
}

void column_moments(const HostTensor& tensor, float* out) {
    parallel_for(tensor.cols, kColumnGrain, [&](int, int64_t begin, int64_t end) {
        const int64_t count = end - begin;
        std::vector<float> values(count);
        std::vector<double> sums(count);
        for (int64_t row = 0; row < tensor.rows; ++row) {
            read_values(tensor, row * tensor.cols + begin, count, values.data());
            for (int64_t i = 0; i < count; ++i) sums[i] += double{values[i]} * values[i];
        }
        for (int64_t i = 0; i < count; ++i)
            out[begin + i] = static_cast<float>(sums[i] / static_cast<double>(tensor.rows));
    });
}

}  // namespace tinyllm
