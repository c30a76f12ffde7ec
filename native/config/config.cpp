#include "config/config.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace tinyllm {

namespace {

void require(bool ok, const char* field, auto value, const char* expected) {
    if (!ok) fail(TL_STATUS_CONFIG, field, " = ", value, " is not supported; expected ", expected);
}

void require_positive(const char* field, int32_t value) { require(value > 0, field, value, "a positive number"); }

void require_range(const char* field, int32_t value, int32_t largest) {
    require(value > 0 && value <= largest, field, value, concat("1 to ", largest).c_str());
}

// The caller's struct must be the one this library was compiled with.
template <typename T>
void require_struct(const T& c, const char* name) {
    if (c.struct_size != sizeof(T))
        fail(TL_STATUS_INVALID_ARGUMENT, name, ".struct_size = ", c.struct_size, ", expected ", sizeof(T),
             "; the caller was built against another version of tinyllm.h");
}

constexpr int32_t kMaxStepTokens = 65536;

}  // namespace

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

EngineConfig EngineConfig::from_c(const tl_engine_config& c) {
    require_struct(c, "tl_engine_config");
    require(c.device_kind == TL_DEVICE_CPU || c.device_kind == TL_DEVICE_CUDA, "device_kind", c.device_kind,
            "CPU or CUDA");
    EngineConfig e;
    e.device_kind = static_cast<DeviceKind>(c.device_kind);
    e.device_index = c.device_index;
    e.kv_cache = {c.max_batch_size, c.max_seq_len, c.num_pages};
    e.max_step_tokens = c.max_step_tokens;
    e.prefill_chunk = c.prefill_chunk;
    return checked(e);
}

void require_activation_type(DeviceKind device, DType dtype) {
    if (device == DeviceKind::Cuda && dtype == DType::F32)
        fail(TL_STATUS_CONFIG, "dtype = float32: float32 activations run on the CPU only; use float16 or bfloat16");
}

EngineConfig checked(EngineConfig config) {
    // One chunk fills the machine: a GPU becomes compute-bound at about 1024 rows, a CPU with far fewer.
    if (config.max_step_tokens == 0) config.max_step_tokens = config.device_kind == DeviceKind::Cuda ? 2048 : 256;
    if (config.prefill_chunk == 0)
        config.prefill_chunk = std::min(config.max_step_tokens, config.device_kind == DeviceKind::Cuda ? 512 : 64);
    config.validate();
    return config;
}

void EngineConfig::validate() const {
    require(device_index >= 0, "device_index", device_index, "0 or more");
    require_range("max_batch_size", kv_cache.max_batch_size, kMaxBatchSize);
    require_range("max_seq_len", kv_cache.max_seq_len, kMaxSeqLen);
    require(kv_cache.num_pages >= 0, "num_pages", kv_cache.num_pages, "0 (enough for all) or a positive number");
    require(kv_cache.num_pages == 0 || kv_cache.num_pages >= kv_cache.pages_per_seq(), "num_pages", kv_cache.num_pages,
            "at least the pages of one full sequence (max_seq_len / 64, rounded up)");
    require(max_step_tokens > 0 && max_step_tokens <= kMaxStepTokens, "max_step_tokens", max_step_tokens,
            "1 to 65536 (0 for the device's default)");
    require(prefill_chunk > 0 && prefill_chunk <= max_step_tokens, "prefill_chunk", prefill_chunk,
            "1 to max_step_tokens (0 for the device's default)");
}

}  // namespace tinyllm
