#include "model/decoder_spec.h"

#include <algorithm>
#include <cmath>

#include "config/model_config.h"
#include "model/launch_hints.h"

namespace tinyllm {

namespace {

MatrixSpec matrix(const ModelConfig& c, std::string name, MatrixRole role, int32_t k, bool bias,
                  std::vector<TensorSpec> tensors) {
    int32_t n = 0;
    for (const TensorSpec& tensor : tensors) n += tensor.num_rows;
    const int32_t group_length = c.group_size == 0 ? k : c.group_size;
    return {std::move(name), role, n, k, c.quantization, group_length, c.dtype, bias, std::move(tensors), {}};
}

// Tied, the table is also the output matrix and is quantised like one; untied it is only looked up in and stays 16-bit.
MatrixSpec embedding(const ModelConfig& c) {
    MatrixSpec spec = matrix(c, "embed_tokens", MatrixRole::Embedding, c.hidden_dim, false,
                             {{"embed_tokens", TensorRole::Embedding, c.vocab_size, {}}});
    if (!c.tie_word_embeddings) spec.quantization = QuantizationType::NONE;
    return spec;
}

RopeSpec rope(const ModelConfig& c) {
    return {c.rope_type,
            c.rotary_dim,
            c.rope_theta,
            c.rope_factor,
            c.rope_low_freq_factor,
            c.rope_high_freq_factor,
            c.rope_original_max_seq_len,
            c.rope_attention_factor,
            c.rope_beta_fast,
            c.rope_beta_slow,
            c.rope_truncate};
}

AttentionSpec attention(const ModelConfig& c, int32_t layer) {
    const int32_t window = layer >= c.sliding_window_first_layer ? c.sliding_window : 0;
    return {{c.num_heads, c.num_kv_heads, c.head_dim, window, 1.0f / std::sqrt(static_cast<float>(c.head_dim))},
            c.qk_norm};
}

LayerSpec layer(const ModelConfig& c, int32_t index) {
    const std::string name = "layers." + std::to_string(index) + ".", attn = name + "self_attn.", mlp = name + "mlp.";
    const AttentionSpec mixer = attention(c, index);
    const int32_t q = mixer.shape.q_dim(), kv = mixer.shape.kv_dim(), hidden = c.hidden_dim, wide = c.intermediate_dim;
    LayerSpec layer{mixer, MlpSpec{wide}, {}, {}};
    layer.matrices = {
        matrix(c, name + "qkv", MatrixRole::Qkv, hidden, c.qkv_bias,
               {{attn + "q_proj", TensorRole::Query, q, {0, 1}},
                {attn + "k_proj", TensorRole::Key, kv, {q, 1}},
                {attn + "v_proj", TensorRole::Value, kv, {q + kv, 1}}}),
        matrix(c, name + "o_proj", MatrixRole::AttentionOutput, q, c.o_bias,
               {{attn + "o_proj", TensorRole::Residual, hidden, {}}}),
        matrix(c, name + "gate_up", MatrixRole::GateUp, hidden, c.mlp_bias,
               {{mlp + "gate_proj", TensorRole::Gate, wide, {0, 2}}, {mlp + "up_proj", TensorRole::Up, wide, {1, 2}}}),
        matrix(c, name + "down_proj", MatrixRole::Down, wide, c.mlp_bias,
               {{mlp + "down_proj", TensorRole::Residual, hidden, {}}}),
    };
    layer.vectors = {
        {name + "input_norm", VectorRole::InputNorm, hidden, name + "input_layernorm.weight", MatrixRole::Qkv},
        {name + "post_attention_norm", VectorRole::PostAttentionNorm, hidden, name + "post_attention_layernorm.weight",
         MatrixRole::GateUp},
    };
    if (mixer.qk_norm) {
        const auto head_norm = [&](const std::string& which, VectorRole role) {
            layer.vectors.push_back(
                {name + which, role, c.head_dim, attn + which + ".weight", MatrixRole::AttentionOutput});
        };
        head_norm("q_norm", VectorRole::QNorm);
        head_norm("k_norm", VectorRole::KNorm);
    }
    return layer;
}

// Appends `item` where no equal one is yet.
template <typename T>
void insert(std::vector<T>& items, const T& item) {
    if (std::find(items.begin(), items.end(), item) == items.end()) items.push_back(item);
}

void add_tensors(std::vector<CheckpointTensor>& list, const MatrixSpec& matrix) {
    for (const TensorSpec& tensor : matrix.tensors) {
        list.push_back({tensor.name + ".weight", {tensor.num_rows, matrix.k}});
        if (matrix.bias) list.push_back({tensor.name + ".bias", {tensor.num_rows}});
    }
}

}  // namespace

DecoderSpec make_decoder_spec(const ModelConfig& c) {
    DecoderSpec spec{
        c.vocab_size,
        c.hidden_dim,
        c.dtype,
        c.quantization,
        c.rms_norm_eps,
        embedding(c),
        rope(c),
        {"rope.inv_freq", VectorRole::InvFreq, c.rotary_dim / 2, c.rope_freq_factors ? "rope_freqs.weight" : "", {}},
        {},
        {"norm", VectorRole::FinalNorm, c.hidden_dim, "norm.weight", MatrixRole::Head},
        {}};
    for (int32_t i = 0; i < c.num_layers; ++i) spec.layers.push_back(layer(c, i));
    if (!c.tie_word_embeddings)
        spec.head = matrix(c, "lm_head", MatrixRole::Head, c.hidden_dim, false,
                           {{"lm_head", TensorRole::Logits, c.vocab_size, {}}});
    set_launch_hints(spec);
    return spec;
}

std::vector<const MatrixSpec*> DecoderSpec::matrices() const& {
    std::vector<const MatrixSpec*> all = {&embedding};
    for (const LayerSpec& layer : layers)
        for (const MatrixSpec& matrix : layer.matrices) all.push_back(&matrix);
    if (head) all.push_back(&*head);
    return all;
}

std::vector<const VectorSpec*> DecoderSpec::vectors() const& {
    std::vector<const VectorSpec*> all = {&inv_freq};
    for (const LayerSpec& layer : layers)
        for (const VectorSpec& vector : layer.vectors) all.push_back(&vector);
    all.push_back(&norm);
    return all;
}

std::vector<CheckpointTensor> checkpoint_tensors(const DecoderSpec& spec) {
    std::vector<CheckpointTensor> list;
    if (!spec.inv_freq.tensor.empty()) list.push_back({spec.inv_freq.tensor, {spec.inv_freq.size}});
    add_tensors(list, spec.embedding);
    for (const LayerSpec& layer : spec.layers) {
        for (const MatrixSpec& matrix : layer.matrices) {
            for (const VectorSpec& vector : layer.vectors)
                if (vector.before == matrix.role) list.push_back({vector.tensor, {vector.size}});
            add_tensors(list, matrix);
        }
    }
    list.push_back({spec.norm.tensor, {spec.norm.size}});
    if (spec.head) add_tensors(list, *spec.head);
    if (!spec.head && spec.quantization == QuantizationType::W8A16) {
        add_tensors(list, spec.embedding);
        list.back().again = true;
    }
    return list;
}

ModelShapes model_shapes(const DecoderSpec& spec) {
    ModelShapes shapes;
    for (const MatrixSpec* matrix : spec.matrices()) insert(shapes.matrices, {matrix->n, matrix->k});
    for (const LayerSpec& layer : spec.layers) insert(shapes.attentions, layer.attention().shape);
    shapes.vocab_size = spec.vocab_size;
    return shapes;
}

}  // namespace tinyllm
