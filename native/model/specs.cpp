#include "model/specs.h"

namespace tinyllm {

std::string layer_name(int index) { return "layers." + std::to_string(index); }

// Everything that a layer's matrices need to be named, sized and filled, in one place.
LinearSpec qkv_spec(const ModelConfig& c, int layer) {
    return {layer_name(layer) + ".qkv", Component::Weights, c.qkv_dim(), c.hidden_dim, c.quantization, c.qkv_bias};
}
LinearSpec o_spec(const ModelConfig& c, int layer) {
    return {layer_name(layer) + ".o_proj", Component::Weights, c.hidden_dim, c.q_dim(), c.quantization, c.o_bias};
}
LinearSpec gate_up_spec(const ModelConfig& c, int layer) {
    return {layer_name(layer) + ".gate_up",
            Component::Weights,
            2 * c.intermediate_dim,
            c.hidden_dim,
            c.quantization,
            c.mlp_bias};
}
LinearSpec down_spec(const ModelConfig& c, int layer) {
    return {layer_name(layer) + ".down_proj",
            Component::Weights,
            c.hidden_dim,
            c.intermediate_dim,
            c.quantization,
            c.mlp_bias};
}
// Tied, the table is also the output matrix and is quantised like one; untied it is only looked up in and stays 16-bit.
LinearSpec embedding_spec(const ModelConfig& c) {
    const QuantizationType quantization = c.tie_word_embeddings ? c.quantization : QuantizationType::NONE;
    return {"embed_tokens", Component::Embedding, c.vocab_size, c.hidden_dim, quantization, false};
}
LinearSpec head_spec(const ModelConfig& c) {
    return {"lm_head", Component::Weights, c.vocab_size, c.hidden_dim, c.quantization, false};
}

std::vector<LinearSpec> linear_specs(const ModelConfig& config) {
    std::vector<LinearSpec> specs = {embedding_spec(config)};
    for (int i = 0; i < config.num_layers; ++i)
        specs.insert(specs.end(),
                     {qkv_spec(config, i), o_spec(config, i), gate_up_spec(config, i), down_spec(config, i)});
    if (!config.tie_word_embeddings) specs.push_back(head_spec(config));
    return specs;
}

std::vector<VectorSpec> vector_specs(const ModelConfig& config) {
    std::vector<VectorSpec> specs = {{"rope.inv_freq", config.rotary_dim / 2}};
    for (int i = 0; i < config.num_layers; ++i) {
        specs.push_back({layer_name(i) + ".input_norm", config.hidden_dim});
        specs.push_back({layer_name(i) + ".post_attention_norm", config.hidden_dim});
        if (config.qk_norm) {
            specs.push_back({layer_name(i) + ".q_norm", config.head_dim});
            specs.push_back({layer_name(i) + ".k_norm", config.head_dim});
        }
    }
    specs.push_back({"norm", config.hidden_dim});
    return specs;
}

}  // namespace tinyllm
