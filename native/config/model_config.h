// ModelConfig: what a model is. The C struct tl_model_config, checked. Only model/decoder_spec.cpp makes something of
// it; everything else reads the DecoderSpec.
#pragma once

#include <cstdint>

#include "config/kinds.h"
#include "core/dtype.h"
#include "tinyllm.h"

namespace tinyllm {

// Field meanings are those of tl_model_config. `from_c` checks every value and throws Config errors that name it.
struct ModelConfig {
    int32_t vocab_size = 0;
    int32_t hidden_dim = 0;
    int32_t intermediate_dim = 0;
    int32_t num_layers = 0;
    int32_t num_heads = 0;
    int32_t num_kv_heads = 0;
    int32_t head_dim = 0;
    int32_t rotary_dim = 0;
    int32_t max_seq_len = 0;
    DType dtype = DType::F16;
    QuantizationType quantization = QuantizationType::W8A16;
    int32_t group_size = 128;
    float rms_norm_eps = 1e-5f;
    float rope_theta = 10000.0f;
    RopeType rope_type = RopeType::Default;
    float rope_factor = 1.0f;
    float rope_low_freq_factor = 1.0f;
    float rope_high_freq_factor = 4.0f;
    int32_t rope_original_max_seq_len = 0;
    float rope_attention_factor = 1.0f;
    float rope_beta_fast = 32.0f;
    float rope_beta_slow = 1.0f;
    bool rope_truncate = true;
    int32_t sliding_window = 0;
    int32_t sliding_window_first_layer = 0;
    bool tie_word_embeddings = false;
    bool qkv_bias = false;
    bool o_bias = false;
    bool mlp_bias = false;
    bool qk_norm = false;
    bool rope_freq_factors = false;
    bool recompute_activations = false;

    static ModelConfig from_c(const tl_model_config& c);
    void validate() const;
};

}  // namespace tinyllm
