#include "config/model_config.h"

#include <cmath>

#include "config/checks.h"
#include "config/limits.h"

namespace tinyllm {

ModelConfig ModelConfig::from_c(const tl_model_config& c) {
    require_struct(c, "tl_model_config");
    require(c.dtype >= TL_DTYPE_F32 && c.dtype <= TL_DTYPE_BF16, "dtype", c.dtype, "float32, float16 or bfloat16");
    require(c.quantization == TL_QUANTIZATION_NONE || c.quantization == TL_QUANTIZATION_W8A16, "quantization",
            c.quantization, "NONE or W8A16");
    require(c.rope_type >= TL_ROPE_DEFAULT && c.rope_type <= TL_ROPE_YARN, "rope_type", c.rope_type,
            "default, linear, dynamic, llama3 or yarn");
    ModelConfig m;
    m.vocab_size = c.vocab_size;
    m.hidden_dim = c.hidden_dim;
    m.intermediate_dim = c.intermediate_dim;
    m.num_layers = c.num_layers;
    m.num_heads = c.num_heads;
    m.num_kv_heads = c.num_kv_heads;
    m.head_dim = c.head_dim;
    m.rotary_dim = c.rotary_dim;
    m.max_seq_len = c.max_seq_len;
    m.dtype = static_cast<DType>(c.dtype);
    m.quantization = static_cast<QuantizationType>(c.quantization);
    m.group_size = c.group_size;
    m.rms_norm_eps = c.rms_norm_eps;
    m.rope_theta = c.rope_theta;
    m.rope_type = static_cast<RopeType>(c.rope_type);
    m.rope_factor = c.rope_factor;
    m.rope_low_freq_factor = c.rope_low_freq_factor;
    m.rope_high_freq_factor = c.rope_high_freq_factor;
    m.rope_original_max_seq_len = c.rope_original_max_seq_len;
    m.rope_attention_factor = c.rope_attention_factor;
    m.rope_beta_fast = c.rope_beta_fast;
    m.rope_beta_slow = c.rope_beta_slow;
    m.rope_truncate = c.rope_truncate != 0;
    m.sliding_window = c.sliding_window;
    m.sliding_window_first_layer = c.sliding_window_first_layer;
    m.tie_word_embeddings = c.tie_word_embeddings != 0;
    m.qkv_bias = c.qkv_bias != 0;
    m.o_bias = c.o_bias != 0;
    m.mlp_bias = c.mlp_bias != 0;
    m.qk_norm = c.qk_norm != 0;
    m.rope_freq_factors = c.rope_freq_factors != 0;
    m.recompute_activations = c.recompute_activations != 0;
    m.validate();
    return m;
}

void ModelConfig::validate() const {
    require_range("vocab_size", vocab_size, kMaxVocabSize);
    require_range("hidden_dim", hidden_dim, kMaxWidth);
    require_range("intermediate_dim", intermediate_dim, kMaxWidth);
    require_range("num_layers", num_layers, kMaxLayers);
    require_range("num_heads", num_heads, kMaxWidth);
    require_positive("num_kv_heads", num_kv_heads);
    require(num_heads % num_kv_heads == 0, "num_heads", num_heads, "a multiple of num_kv_heads");
    require(head_dim > 0 && head_dim % 2 == 0 && head_dim <= kMaxHeadDim, "head_dim", head_dim,
            "an even number up to 512");
    require(int64_t{num_heads} * head_dim <= kMaxWidth, "num_heads", num_heads, "at most 1048576 / head_dim");
    require(rotary_dim > 0 && rotary_dim % 2 == 0 && rotary_dim <= head_dim, "rotary_dim", rotary_dim,
            "an even number up to head_dim");
    require_positive("max_seq_len", max_seq_len);
    require(group_size == 0 || group_size == 32 || group_size == 64 || group_size == 128 || group_size == 256,
            "group_size", group_size, "32, 64, 128, 256, or 0 for one group a row");
    require(std::isfinite(rms_norm_eps) && rms_norm_eps > 0, "rms_norm_eps", rms_norm_eps, "a positive number");
    require(std::isfinite(rope_theta) && rope_theta > 0, "rope_theta", rope_theta, "a positive number");
    require(std::isfinite(rope_factor) && rope_factor > 0, "rope_factor", rope_factor, "a positive number");
    require(std::isfinite(rope_attention_factor) && rope_attention_factor > 0, "rope_attention_factor",
            rope_attention_factor, "a positive number");
    if (rope_type == RopeType::Dynamic || rope_type == RopeType::Llama3 || rope_type == RopeType::Yarn)
        require_positive("rope_original_max_seq_len", rope_original_max_seq_len);
    if (rope_type == RopeType::Llama3) {
        require(std::isfinite(rope_low_freq_factor) && rope_low_freq_factor > 0, "rope_low_freq_factor",
                rope_low_freq_factor, "a positive number");
        require(std::isfinite(rope_high_freq_factor) && rope_high_freq_factor > rope_low_freq_factor,
                "rope_high_freq_factor", rope_high_freq_factor, "more than rope_low_freq_factor");
    }
    if (rope_type == RopeType::Yarn)
        require(rope_beta_fast > 0 && rope_beta_slow > 0, "rope_beta_fast, rope_beta_slow", rope_beta_slow,
                "positive numbers");
    require(rope_type != RopeType::Dynamic || rotary_dim > 2, "rotary_dim", rotary_dim, "more than 2 for dynamic RoPE");
    require(sliding_window >= 0, "sliding_window", sliding_window, "0 (none) or a positive number");
    require(sliding_window_first_layer >= 0, "sliding_window_first_layer", sliding_window_first_layer, "a layer index");
}

}  // namespace tinyllm
