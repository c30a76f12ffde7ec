#include "ops/rope.h"

#include <algorithm>
#include <numbers>

#include "core/error.h"

namespace tinyllm {

namespace {

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, the band between interpolated.
double llama3_frequency(const ModelConfig& c, double frequency) {
    const double wavelength = 2.0 * std::numbers::pi / frequency;
    const double original = c.rope_original_max_seq_len;
    if (wavelength < original / c.rope_high_freq_factor) return frequency;
    if (wavelength > original / c.rope_low_freq_factor) return frequency / c.rope_factor;
    const double smooth =
        (original / wavelength - c.rope_low_freq_factor) / (c.rope_high_freq_factor - c.rope_low_freq_factor);
    return (1.0 - smooth) * frequency / c.rope_factor + smooth * frequency;
}

// YaRN: the (fractional) pair index at which a frequency turns `rotations` times within the original context.
double yarn_correction_dim(const ModelConfig& c, double rotations) {
    return c.rotary_dim * std::log(c.rope_original_max_seq_len / (rotations * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(c.rope_theta));
}

struct YarnRange {
    double low, high;
};

YarnRange yarn_range(const ModelConfig& c) {
    double low = yarn_correction_dim(c, c.rope_beta_fast);
    double high = yarn_correction_dim(c, c.rope_beta_slow);
    if (c.rope_truncate) {
        low = std::floor(low);
        high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, c.rotary_dim - 1.0);
    if (low == high) high += 0.001;  // the ramp below must not divide by zero
    return {low, high};
}

}  // namespace

std::vector<float> rope_inv_freq(const ModelConfig& config, const std::vector<float>& freq_factors) {
    const int pairs = config.rotary_dim / 2;
    TL_CHECK(freq_factors.empty() || static_cast<int>(freq_factors.size()) == pairs);
    const YarnRange range = config.rope_type == RopeType::Yarn ? yarn_range(config) : YarnRange{0, 1};
    std::vector<float> out(pairs);
    for (int i = 0; i < pairs; ++i) {
        double frequency = std::pow(static_cast<double>(config.rope_theta), -2.0 * i / config.rotary_dim);
        switch (config.rope_type) {
            case RopeType::Default:
            case RopeType::Dynamic:
                break;
            case RopeType::Linear:
                frequency /= config.rope_factor;
                break;
            case RopeType::Llama3:
                frequency = llama3_frequency(config, frequency);
                break;
            case RopeType::Yarn: {
                const double ramp = std::clamp((i - range.low) / (range.high - range.low), 0.0, 1.0);
                frequency = frequency / config.rope_factor * ramp + frequency * (1.0 - ramp);
                break;
            }
        }
        out[i] = static_cast<float>(freq_factors.empty() ? frequency : frequency / freq_factors[i]);
    }
    return out;
}

}  // namespace tinyllm
