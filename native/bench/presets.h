// Shapes of known models. Weights are made up: speed does not depend on their values.
#pragma once

#include <string>
#include <vector>

#include "config/model_config.h"

namespace tinyllm::bench {

struct Preset {
    const char* name;
    int32_t vocab_size, hidden_dim, intermediate_dim, num_layers, num_heads, num_kv_heads, head_dim, max_seq_len;
    float rope_theta;
    bool tied, qkv_bias, qk_norm;
};

const std::vector<Preset>& presets();
// "llama2-7b, llama3-8b, ..."
std::string preset_names();
// Throws InvalidArgument for an unknown name, listing the known ones.
ModelConfig preset_config(const std::string& name);

}  // namespace tinyllm::bench
