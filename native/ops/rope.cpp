#include "ops/rope.h"

#include <algorithm>
#include <numbers>

#include "core/error.h"

namespace tinyllm {

namespace {

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, the band between interpolated.
double llama3_frequency(const RopeSpec& rope, double frequency) {
    const double wavelength = 2.0 * std::numbers::pi / frequency;
    const double original = rope.original_max_seq_len;
    if (wavelength < original / rope.high_freq_factor) return frequency;
    if (wavelength > original / rope.low_freq_factor) return frequency / rope.factor;
    const double smooth =
        (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
    return (1.0 - smooth) * frequency / rope.factor + smooth * frequency;
}

// YaRN: the (fractional) pair index at which a frequency turns `rotations` times within the original context.
double yarn_correction_dim(const RopeSpec& rope, double rotations) {
    return rope.rotary_dim * std::log(rope.original_max_seq_len / (rotations * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(rope.theta));
}

struct YarnRange {
    double low, high;
};

YarnRange yarn_range(const RopeSpec& rope) {
    double low = yarn_correction_dim(rope, rope.beta_fast);
    double high = yarn_correction_dim(rope, rope.beta_slow);
    if (rope.truncate) {
        low = std::floor(low);
        high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, rope.rotary_dim - 1.0);
    if (low == high) high += 0.001;  // the ramp below must not divide by zero
    return {low, high};
}

}  // namespace

std::vector<float> rope_inv_freq(const RopeSpec& rope, const std::vector<float>& freq_factors) {
    const int pairs = rope.rotary_dim / 2;
    TL_CHECK(freq_factors.empty() || static_cast<int>(freq_factors.size()) == pairs);
    const YarnRange range = rope.type == RopeType::Yarn ? yarn_range(rope) : YarnRange{0, 1};
    std::vector<float> out(pairs);
    for (int i = 0; i < pairs; ++i) {
        double frequency = std::pow(static_cast<double>(rope.theta), -2.0 * i / rope.rotary_dim);
        switch (rope.type) {
            case RopeType::Default:
            case RopeType::Dynamic:
                break;
            case RopeType::Linear:
                frequency /= rope.factor;
                break;
            case RopeType::Llama3:
                frequency = llama3_frequency(rope, frequency);
                break;
            case RopeType::Yarn: {
                const double ramp = std::clamp((i - range.low) / (range.high - range.low), 0.0, 1.0);
                frequency = frequency / rope.factor * ramp + frequency * (1.0 - ramp);
                break;
            }
        }
        out[i] = static_cast<float>(freq_factors.empty() ? frequency : frequency / freq_factors[i]);
    }
    return out;
}

}  // namespace tinyllm
