// ModelConfig and KVCacheConfig: what a model is and what an engine may use. The C structs of tinyllm.h, checked.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "tinyllm.h"

namespace tinyllm {

enum class DeviceKind : int32_t { Cpu = TL_DEVICE_CPU, Cuda = TL_DEVICE_CUDA };
enum class QuantizationType : int32_t { NONE = TL_QUANTIZATION_NONE, W8A16 = TL_QUANTIZATION_W8A16 };
enum class RopeType : int32_t {
    Default = TL_ROPE_DEFAULT,
    Linear = TL_ROPE_LINEAR,
    Dynamic = TL_ROPE_DYNAMIC,
    Llama3 = TL_ROPE_LLAMA3,
    Yarn = TL_ROPE_YARN
};

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

    int32_t q_dim() const { return num_heads * head_dim; }
    int32_t kv_dim() const { return num_kv_heads * head_dim; }
    int32_t qkv_dim() const { return q_dim() + 2 * kv_dim(); }
    // Window of a layer in tokens, 0 for none.
    int32_t window(int layer) const { return layer >= sliding_window_first_layer ? sliding_window : 0; }
    // Length of one quantisation group along an input of k features.
    int32_t group_length(int32_t k) const { return group_size == 0 ? k : group_size; }
};

// What a model and an engine may have at most: far beyond what exists, and such that no size overflows.
constexpr int32_t kMaxWidth = 1 << 20;  // hidden_dim, intermediate_dim, all query heads together
constexpr int32_t kMaxHeadDim = 512;
constexpr int32_t kMaxVocabSize = 1 << 22;
constexpr int32_t kMaxLayers = 1024;
constexpr int32_t kMaxBatchSize = 4096;
constexpr int32_t kMaxSeqLen = 1 << 24;

// KV pages hold this many tokens. It divides the usual contexts, and is one tile of the attention kernels.
constexpr int32_t kPageTokens = 64;

struct KVCacheConfig {
    int32_t max_batch_size = 1;
    int32_t max_seq_len = 2048;
    int32_t num_pages = 0;  // 0: enough for every sequence at full length

    int32_t pages_per_seq() const { return (max_seq_len + kPageTokens - 1) / kPageTokens; }
    int32_t total_pages() const { return num_pages > 0 ? num_pages : max_batch_size * pages_per_seq(); }
};

struct EngineConfig {
    DeviceKind device_kind = DeviceKind::Cpu;
    int32_t device_index = 0;
    KVCacheConfig kv_cache;
    int32_t max_step_tokens = 0;  // prompt tokens of one step at most; after from_c never 0
    int32_t prefill_chunk = 0;    // the same in steps in which other requests generate; after from_c never 0

    static EngineConfig from_c(const tl_engine_config& c);
    void validate() const;
};

// Throws a Config error where activations of this type do not run on the device.
void require_activation_type(DeviceKind device, DType dtype);

// `config` with the device's default for what is 0, validated.
EngineConfig checked(EngineConfig config);

}  // namespace tinyllm
