#include "bench/presets.h"

#include "core/error.h"

namespace tinyllm::bench {

const std::vector<Preset>& presets() {
    // Published config.json of each model. Columns: see Preset.
    static const std::vector<Preset> table = {
        {"llama2-7b", 32000, 4096, 11008, 32, 32, 32, 128, 4096, 1e4f, false, false, false},
        {"llama2-13b", 32000, 5120, 13824, 40, 40, 40, 128, 4096, 1e4f, false, false, false},
        {"llama3-8b", 128256, 4096, 14336, 32, 32, 8, 128, 8192, 5e5f, false, false, false},
        {"llama3.2-1b", 128256, 2048, 8192, 16, 32, 8, 64, 131072, 5e5f, true, false, false},
        {"llama3.2-3b", 128256, 3072, 8192, 28, 24, 8, 128, 131072, 5e5f, true, false, false},
        {"mistral-7b", 32000, 4096, 14336, 32, 32, 8, 128, 32768, 1e6f, false, false, false},
        {"tinyllama-1.1b", 32000, 2048, 5632, 22, 32, 4, 64, 2048, 1e4f, false, false, false},
        {"smollm2-135m", 49152, 576, 1536, 30, 9, 3, 64, 8192, 1e5f, true, false, false},
        {"smollm2-360m", 49152, 960, 2560, 32, 15, 5, 64, 8192, 1e5f, true, false, false},
        {"smollm2-1.7b", 49152, 2048, 8192, 24, 32, 32, 64, 8192, 1.3e5f, true, false, false},
        {"qwen2.5-0.5b", 151936, 896, 4864, 24, 14, 2, 64, 32768, 1e6f, true, true, false},
        {"qwen2.5-7b", 152064, 3584, 18944, 28, 28, 4, 128, 32768, 1e6f, false, true, false},
        {"qwen3-0.6b", 151936, 1024, 3072, 28, 16, 8, 128, 40960, 1e6f, true, false, true},
        {"qwen3-8b", 151936, 4096, 12288, 36, 32, 8, 128, 40960, 1e6f, false, false, true},
    };
    return table;
}

std::string preset_names() {
    std::string names;
    for (const Preset& preset : presets()) names += (names.empty() ? "" : ", ") + std::string(preset.name);
    return names;
}

ModelConfig preset_config(const std::string& name) {
    for (const Preset& p : presets()) {
        if (name != p.name) continue;
        ModelConfig c;
        c.vocab_size = p.vocab_size;
        c.hidden_dim = p.hidden_dim;
        c.intermediate_dim = p.intermediate_dim;
        c.num_layers = p.num_layers;
        c.num_heads = p.num_heads;
        c.num_kv_heads = p.num_kv_heads;
        c.head_dim = c.rotary_dim = p.head_dim;
        c.max_seq_len = p.max_seq_len;
        c.rope_theta = p.rope_theta;
        c.tie_word_embeddings = p.tied;
        c.qkv_bias = p.qkv_bias;
        c.qk_norm = p.qk_norm;
        return c;
    }
    fail(TL_STATUS_INVALID_ARGUMENT, "unknown preset '", name, "'; known: ", preset_names());
}

}  // namespace tinyllm::bench
