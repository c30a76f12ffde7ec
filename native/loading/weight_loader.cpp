#include "loading/weight_loader.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "ops/rope.h"
#include "quantization/tensor_values.h"

namespace tinyllm {

namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
}

// Element i of the flat tensor.
float element(const HostTensor& tensor, int64_t i) {
    float value;
    read_values(tensor, i, 1, &value);
    return value;
}

}  // namespace

WeightLoader::WeightLoader(const ModelConfig& config, Backend& backend, MemoryTracker& tracker,
                           const PlannedMemory& memory)
    : config_(config), backend_(backend), tracker_(tracker), memory_(memory), importance_(config) {
    const auto vector = [&](const std::string& name) { return static_cast<float*>(memory_.at(name)); };
    weights_.embedding = linear(embedding_spec(config_));
    weights_.head = config_.tie_word_embeddings ? weights_.embedding : linear(head_spec(config_));
    weights_.norm = {vector("norm"), config_.rms_norm_eps};
    weights_.rope = {vector("rope.inv_freq"),
                     config_.rotary_dim,
                     config_.rope_attention_factor,
                     config_.rope_type == RopeType::Dynamic,
                     config_.rope_theta,
                     config_.rope_factor,
                     config_.rope_original_max_seq_len};
    add_linear("embed_tokens", weights_.embedding, {}, config_.vocab_size, false);
    if (!config_.tie_word_embeddings) add_linear("lm_head", weights_.head, {}, config_.vocab_size, false);
    add_vector("norm.weight", vector("norm"), config_.hidden_dim);
    if (config_.rope_freq_factors) {
        freq_factors_.resize(config_.rotary_dim / 2);
        add_vector("rope_freqs.weight", nullptr, config_.rotary_dim / 2);
    }
    for (int i = 0; i < config_.num_layers; ++i) describe_layer(i);
    std::sort(targets_.begin(), targets_.end(), [](const Target& a, const Target& b) { return a.name < b.name; });
}

void WeightLoader::describe_layer(int index) {
    const ModelConfig& c = config_;
    const std::string prefix = layer_name(index);
    const auto norm = [&](const char* name) {
        return NormWeight{static_cast<float*>(memory_.at(prefix + name)), c.rms_norm_eps};
    };
    LayerWeights layer;
    layer.qkv.input_norm = norm(".input_norm");
    layer.qkv.qkv = linear(qkv_spec(c, index));
    layer.o_proj = linear(o_spec(c, index));
    layer.post_attention_norm = norm(".post_attention_norm");
    layer.gate_up = linear(gate_up_spec(c, index));
    layer.down_proj = linear(down_spec(c, index));
    if (c.qk_norm) {
        layer.qkv.q_norm = norm(".q_norm");
        layer.qkv.k_norm = norm(".k_norm");
        add_vector(prefix + ".self_attn.q_norm.weight", layer.qkv.q_norm.weight, c.head_dim);
        add_vector(prefix + ".self_attn.k_norm.weight", layer.qkv.k_norm.weight, c.head_dim);
    }
    add_vector(prefix + ".input_layernorm.weight", layer.qkv.input_norm.weight, c.hidden_dim);
    add_vector(prefix + ".post_attention_layernorm.weight", layer.post_attention_norm.weight, c.hidden_dim);
    const std::string attention = prefix + ".self_attn.", mlp = prefix + ".mlp.";
    add_linear(attention + "q_proj", layer.qkv.qkv, {0, 1}, c.q_dim(), c.qkv_bias);
    add_linear(attention + "k_proj", layer.qkv.qkv, {c.q_dim(), 1}, c.kv_dim(), c.qkv_bias);
    add_linear(attention + "v_proj", layer.qkv.qkv, {c.q_dim() + c.kv_dim(), 1}, c.kv_dim(), c.qkv_bias);
    add_linear(attention + "o_proj", layer.o_proj, {}, c.hidden_dim, c.o_bias);
    add_linear(mlp + "gate_proj", layer.gate_up, {0, 2}, c.intermediate_dim, c.mlp_bias);
    add_linear(mlp + "up_proj", layer.gate_up, {1, 2}, c.intermediate_dim, c.mlp_bias);
    add_linear(mlp + "down_proj", layer.down_proj, {}, c.hidden_dim, c.mlp_bias);
    weights_.layers.push_back(layer);
}

// Padding must be zero, and biases arrive in parts, so both are cleared first.
LinearWeight WeightLoader::linear(const LinearSpec& spec) const {
    const LinearLayout layout = spec.layout(config_, backend_.kind());
    LinearWeight weight{spec.n,
                        spec.k,
                        spec.quantization,
                        config_.group_length(spec.k),
                        config_.dtype,
                        memory_.at(spec.name + ".weight"),
                        nullptr,
                        nullptr};
    if (spec.quantization == QuantizationType::W8A16) weight.scales = memory_.at(spec.name + ".scales");
    if (layout.n_padded != spec.n || layout.k_padded != spec.k) {
        backend_.fill_zero(weight.data, layout.weight_bytes());
        if (weight.scales != nullptr) backend_.fill_zero(weight.scales, layout.scale_bytes());
    }
    if (spec.bias) {
        weight.bias = static_cast<float*>(memory_.at(spec.name + ".bias"));
        backend_.fill_zero(weight.bias, spec.n * sizeof(float));
    }
    return weight;
}

void WeightLoader::add_linear(const std::string& tensor, const LinearWeight& weight, RowMap rows, int32_t num_rows,
                              bool bias) {
    targets_.push_back({tensor + ".weight", weight, nullptr, rows, num_rows});
    if (bias) targets_.push_back({tensor + ".bias", {}, weight.bias, rows, num_rows, num_rows != weight.n});
}

void WeightLoader::add_vector(const std::string& tensor, const float* data, int32_t size) {
    targets_.push_back({tensor, {}, const_cast<float*>(data), {}, size});
}

void WeightLoader::load(const std::string& name, DType dtype, const std::vector<int64_t>& shape, const void* data) {
    const auto found = std::lower_bound(targets_.begin(), targets_.end(), name,
                                        [](const Target& target, const std::string& key) { return target.name < key; });
    if (found == targets_.end() || found->name != name)
        fail(TL_STATUS_CHECKPOINT, "tensor '", name, "' does not belong to this model");
    Target& target = *found;
    // A tied table may come again once it is known how its inputs count as the output matrix.
    const bool comes_again =
        config_.tie_word_embeddings && name == "embed_tokens.weight" && importance_.of(name) != nullptr;
    if (target.loaded && !comes_again) fail(TL_STATUS_CHECKPOINT, "tensor '", name, "' was loaded twice");
    const bool is_matrix = target.weight.data != nullptr;
    const std::vector<int64_t> expected =
        is_matrix ? std::vector<int64_t>{target.num_rows, target.weight.k} : std::vector<int64_t>{target.num_rows};
    if (shape != expected)
        fail(TL_STATUS_CHECKPOINT, "tensor '", name, "': expected shape ", shape_text(expected), ", found ",
             shape_text(shape));
    const HostTensor tensor{dtype, is_matrix ? target.num_rows : 1, is_matrix ? target.weight.k : target.num_rows,
                            data};
    if (is_matrix)
        load_matrix(target, tensor);
    else
        load_vector(target, tensor);
    target.loaded = true;
}

void WeightLoader::load_matrix(const Target& target, const HostTensor& tensor) {
    const bool quantized = config_.quantization == QuantizationType::W8A16;
    const LinearLoad load = quantized ? importance_.load_of(target.name, tensor.rows) : LinearLoad{};
    const int64_t bad = backend_.load_linear(tracker_, target.weight, target.rows, tensor, load);
    if (bad >= 0)
        fail(TL_STATUS_CHECKPOINT, "tensor '", target.name, "': element [", bad / tensor.cols, ", ", bad % tensor.cols,
             "] is ", element(tensor, bad), "; weights must be finite and within the range of float16");
    if (quantized) importance_.add_matrix(target.name);
}

void WeightLoader::load_vector(const Target& target, const HostTensor& tensor) {
    std::vector<float> values(tensor.cols);
    read_values(tensor, 0, tensor.cols, values.data());
    for (int64_t i = 0; i < tensor.cols; ++i) {
        if (!std::isfinite(values[i]))
            fail(TL_STATUS_CHECKPOINT, "tensor '", target.name, "': element [", i, "] is ", values[i],
                 "; weights must be finite");
    }
    importance_.add_vector(target.name, values);
    if (target.vector == nullptr) {
        for (const float value : values)
            if (value <= 0)
                fail(TL_STATUS_CHECKPOINT, "tensor '", target.name, "' holds ", value, "; expected positive factors");
        freq_factors_ = std::move(values);
        return;
    }
    if (!target.shared) {
        backend_.upload(target.vector, values.data(), values.size() * sizeof(float));
        return;
    }
    // Several tensors share one vector (q, k, v; gate, up): read it, place the elements, write it back.
    std::vector<float> whole(target.rows.start + (tensor.cols - 1) * target.rows.stride + 1);
    backend_.download(whole.data(), target.vector, whole.size() * sizeof(float));
    for (int64_t i = 0; i < tensor.cols; ++i) whole[target.rows.start + i * target.rows.stride] = values[i];
    backend_.upload(target.vector, whole.data(), whole.size() * sizeof(float));
}

void WeightLoader::fill_random(uint64_t seed) {
    for (const LinearSpec& spec : linear_specs(config_)) backend_.fill_random(linear(spec), seed++);
    for (const VectorSpec& spec : vector_specs(config_)) {
        const std::vector<float> ones(spec.size, 1.0f);
        backend_.upload(memory_.at(spec.name), ones.data(), ones.size() * sizeof(float));
    }
    std::fill(freq_factors_.begin(), freq_factors_.end(), 1.0f);
    for (Target& target : targets_) target.loaded = true;
    finish();
}

void WeightLoader::finish() {
    std::string missing;
    int count = 0;
    for (const Target& target : targets_) {
        if (target.loaded) continue;
        if (++count <= 5) missing += (missing.empty() ? "'" : ", '") + target.name + "'";
    }
    if (count > 0)
        fail(TL_STATUS_CHECKPOINT, count, " of ", targets_.size(), " tensors are missing: ", missing,
             count > 5 ? ", ..." : "");
    const std::vector<float> inv_freq = rope_inv_freq(config_, freq_factors_);
    backend_.upload(memory_.at("rope.inv_freq"), inv_freq.data(), inv_freq.size() * sizeof(float));
    backend_.finish_load();
    backend_.synchronize();
}

}  // namespace tinyllm
