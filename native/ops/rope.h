// RoPE: what a model says of it, and the frequencies of every supported type.
#pragma once

#include <cmath>
#include <vector>

#include "config/kinds.h"
#include "core/host_device.h"
#include "ops/ops.h"

namespace tinyllm {

// Field meanings are those of tl_model_config.
struct RopeSpec {
    RopeType type = RopeType::Default;
    int32_t rotary_dim = 0;
    float theta = 10000.0f;
    float factor = 1.0f;
    float low_freq_factor = 1.0f;
    float high_freq_factor = 4.0f;
    int32_t original_max_seq_len = 0;
    float attention_factor = 1.0f;
    float beta_fast = 32.0f;
    float beta_slow = 1.0f;
    bool truncate = true;
};

// What the operations take: `inv_freq` is rope_inv_freq() on the device.
inline RopeParams rope_params(const RopeSpec& rope, const float* inv_freq) {
    return {inv_freq,   rope.rotary_dim, rope.attention_factor,    rope.type == RopeType::Dynamic,
            rope.theta, rope.factor,     rope.original_max_seq_len};
}

// Inverse frequencies in radians per position, [rotary_dim / 2]; pair (i, i + rotary_dim / 2) of a head turns by
// position * inv_freq[i]. Formulas as in Hugging Face transformers, modeling_rope_utils.py: default (Su et al. 2021),
// linear (position interpolation), llama3 (Llama 3.1's piecewise rescaling), yarn (Peng et al. 2023, NTK by parts).
// For dynamic these are the frequencies within the original context. `freq_factors` ([rotary_dim / 2] or empty)
// divide the frequencies, as GGUF's rope_freqs tensor does.
std::vector<float> rope_inv_freq(const RopeSpec& rope, const std::vector<float>& freq_factors = {});

// Dynamic NTK: theta for a sequence of `len` tokens, stretched beyond `original` tokens:
// theta * (factor * len / original - (factor - 1)) ^ (rotary_dim / (rotary_dim - 2)).
TL_HOST_DEVICE inline double dynamic_rope_theta(double theta, double factor, int original, int rotary_dim, int len) {
    if (len <= original) return theta;
    return theta * std::pow(factor * len / original - (factor - 1.0), rotary_dim / (rotary_dim - 2.0));
}

}  // namespace tinyllm
