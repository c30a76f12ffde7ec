#include "loading/importance.h"

#include <cmath>
#include <numeric>

namespace tinyllm {

namespace {

// E[silu(x)^2] for x normal with mean 0 and the given variance v. Since sigmoid(x)^2 + sigmoid(-x)^2 =
// 1 - sech(x / 2)^2 / 2, it is v / 2 - E[x^2 sech(x / 2)^2] / 4; with sech(x / 2)^2 ~ exp(-x^2 / 4), which agrees to
// the second order, the expectation has the closed form v / (1 + v / 2)^1.5. Exact for v -> 0 (v / 4) and infinity (v /
// 2).
float silu_moment(float variance) {
    const float spread = 1.0f + variance / 2;
    return variance * (0.5f - 0.25f / (spread * std::sqrt(spread)));
}

}  // namespace

InputImportance::InputImportance(const ModelConfig& config) : config_(config) {}

std::string InputImportance::expected_name() const {
    const std::string layer = "layers." + std::to_string(layer_) + ".";
    switch (next_) {
        case Next::Embedding:
            return "embed_tokens.weight";
        case Next::InputNorm:
            return layer + "input_layernorm.weight";
        case Next::V:
            return layer + "self_attn.v_proj.weight";
        case Next::O:
            return layer + "self_attn.o_proj.weight";
        case Next::PostAttentionNorm:
            return layer + "post_attention_layernorm.weight";
        case Next::Gate:
            return layer + "mlp.gate_proj.weight";
        case Next::Up:
            return layer + "mlp.up_proj.weight";
        case Next::Down:
            return layer + "mlp.down_proj.weight";
        case Next::Norm:
            return "norm.weight";
        case Next::Nothing:
            break;
        case Next::Head:
            return config_.tie_word_embeddings ? "embed_tokens.weight" : "lm_head.weight";
    }
    return "";
}

const float* InputImportance::of(const std::string& name) const {
    const std::string attention = "layers." + std::to_string(layer_) + ".self_attn.";
    const bool beside_v =
        next_ == Next::V && (name == attention + "q_proj.weight" || name == attention + "k_proj.weight");
    if (name != expected_name() && !beside_v) return nullptr;
    if (next_ == Next::O || next_ == Next::Down) return moments_.data();
    return importance_.empty() ? nullptr : importance_.data();
}

LinearLoad InputImportance::load_of(const std::string& name, int64_t rows) {
    LinearLoad load{.search_scales = true, .importance = of(name)};
    if (name != expected_name()) return load;
    switch (next_) {
        case Next::Embedding:
            found_.resize(config_.hidden_dim);
            load.column_moments = found_.data();
            break;
        case Next::V:
        case Next::O:
        case Next::Gate:
        case Next::Up:
        case Next::Down:
            found_.resize(rows);
            load.input_moments = moments_.data();
            load.output_moments = found_.data();
            break;
        default:
            break;
    }
    return load;
}

void InputImportance::add_matrix(const std::string& name) {
    if (name != expected_name()) return;
    switch (next_) {
        case Next::Embedding:
            residual_ = found_;
            next_ = Next::InputNorm;
            break;
        case Next::V: {
            moments_.resize(config_.q_dim());
            const int32_t repeat = config_.num_heads / config_.num_kv_heads, dim = config_.head_dim;
            for (int32_t i = 0; i < config_.q_dim(); ++i) moments_[i] = found_[i / dim / repeat * dim + i % dim];
            next_ = Next::O;
            break;
        }
        case Next::O:
            add_to_residual();
            next_ = Next::PostAttentionNorm;
            break;
        case Next::Gate:
            gate_ = found_;
            next_ = Next::Up;
            break;
        case Next::Up:
            moments_ = found_;
            for (size_t i = 0; i < moments_.size(); ++i) moments_[i] *= silu_moment(gate_[i]);
            next_ = Next::Down;
            break;
        case Next::Down:
            add_to_residual();
            next_ = ++layer_ < config_.num_layers ? Next::InputNorm : Next::Norm;
            break;
        case Next::Head:
            next_ = Next::Nothing;
            break;
        default:
            break;
    }
}

void InputImportance::add_vector(const std::string& name, const std::vector<float>& values) {
    if (name != expected_name()) return;
    switch (next_) {
        case Next::InputNorm:
            add_norm(values);
            next_ = Next::V;
            break;
        case Next::PostAttentionNorm:
            add_norm(values);
            next_ = Next::Gate;
            break;
        case Next::Norm:
            add_norm(values);
            next_ = Next::Head;
            break;
        default:
            break;
    }
}

void InputImportance::add_norm(const std::vector<float>& norm) {
    const size_t size = norm.size();
    const double mean = std::accumulate(residual_.begin(), residual_.end(), 0.0) / static_cast<double>(size);
    moments_.resize(size);
    importance_.resize(size);
    for (size_t i = 0; i < size; ++i) {
        const float ratio = mean > 0 ? static_cast<float>(residual_[i] / mean) : 1.0f;
        moments_[i] = norm[i] * norm[i] * ratio;
        importance_[i] = moments_[i] * ratio;
    }
}

void InputImportance::add_to_residual() {
    for (size_t i = 0; i < residual_.size(); ++i) residual_[i] += found_[i];
}

}  // namespace tinyllm
