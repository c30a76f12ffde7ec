// How the tokens of a request are chosen: the one list of these settings, from the C ABI to the row on the device.
//
// tl_generation_config has fields of the same names; Python's GenerationConfig too. A new setting is a line here, in
// those two, and in the samplers.
#pragma once

#include <cmath>
#include <cstdint>

namespace tinyllm {

// X(type, name, value where it does nothing, condition that a value `v` must meet, what is expected)
#define TL_SAMPLING_SETTINGS(X)                                                          \
    X(uint64_t, seed, 0, true, "")                                                       \
    X(float, temperature, 0, std::isfinite(v) && v >= 0, "0 (greedy) or more")           \
    X(float, top_p, 1, v > 0 && v <= 1, "more than 0, at most 1 (off)")                  \
    X(float, min_p, 0, v >= 0 && v <= 1, "0 (off) to 1")                                 \
    X(float, repetition_penalty, 1, std::isfinite(v) && v > 0, "more than 0 (1 is off)") \
    X(int32_t, top_k, 0, v >= 0, "0 (off) or more")                                      \
    X(int32_t, logprobs, 0, true, "") /* bool: fill SampledToken::logprob */

struct SamplingSettings {
#define TL_FIELD(type, name, off, condition, expected) type name = off;
    TL_SAMPLING_SETTINGS(TL_FIELD)
#undef TL_FIELD

    bool uses_penalty() const { return repetition_penalty != 1.0f; }
    // Nothing but the argmax is asked for.
    bool is_plain_greedy() const { return temperature == 0 && !uses_penalty() && logprobs == 0; }
};

// The settings of one logits row, as it lies on the device. Order of the filters: repetition penalty, temperature,
// top-k, top-p, min-p.
struct SampleParams : SamplingSettings {
    int32_t position = 0;  // of the token being sampled: with `seed` the whole key of its random numbers
    int32_t slot = 0;      // row of `seen`
};

}  // namespace tinyllm
