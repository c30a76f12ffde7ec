#include "model/importance.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/lanes.h"
#include "core/parallel.h"
#include "model/tensor_values.h"

namespace tinyllm {

namespace {

constexpr int64_t kElementGrain = 1 << 14;  // elements that are worth a thread
constexpr int64_t kColumnGrain = 64;

// Sum of values[i]^2 * moments[i] over `count` elements (whole Lanes).
TL_TARGET_CLONES float weighted_squares(const float* values, const float* moments, int64_t count) {
    Lanes sums{};
    for (int64_t i = 0; i < count; i += kLanes) {
        Lanes value, moment;
        std::memcpy(&value, values + i, sizeof value);
        std::memcpy(&moment, moments + i, sizeof moment);
        sums += value * value * moment;
    }
    float lanes[kLanes];
    std::memcpy(lanes, &sums, sizeof lanes);
    return sum_of_lanes(lanes);
}

// (W*W) m: second moments of the outputs of W, [tensor.rows], for independent inputs of second moments m.
std::vector<float> output_moments(const HostTensor& tensor, std::vector<float> moments) {
    const int64_t cols = tensor.cols, padded = padded_to_lanes(cols);
    moments.resize(padded);
    std::vector<float> out(tensor.rows);
    parallel_for(tensor.rows, std::max<int64_t>(1, kElementGrain / cols), [&](int, int64_t begin, int64_t end) {
        std::vector<float> values(padded);
        for (int64_t row = begin; row < end; ++row) {
            read_values(tensor, row * cols, cols, values.data());
            out[row] = weighted_squares(values.data(), moments.data(), padded);
        }
    });
    return out;
}

// Mean of the squares of each column, [tensor.cols].
std::vector<float> column_moments(const HostTensor& tensor) {
    std::vector<float> out(tensor.cols);
    parallel_for(tensor.cols, kColumnGrain, [&](int, int64_t begin, int64_t end) {
        const int64_t count = end - begin;
        std::vector<float> values(count);
        std::vector<double> sums(count);
        for (int64_t row = 0; row < tensor.rows; ++row) {
            read_values(tensor, row * tensor.cols + begin, count, values.data());
            for (int64_t i = 0; i < count; ++i) sums[i] += double{values[i]} * values[i];
        }
        for (int64_t i = 0; i < count; ++i)
            out[begin + i] = static_cast<float>(sums[i] / static_cast<double>(tensor.rows));
    });
    return out;
}

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

void InputImportance::add(const std::string& name, const HostTensor& tensor) {
    if (name != expected_name()) return;
    switch (next_) {
        case Next::Embedding:
            residual_ = column_moments(tensor);
            next_ = Next::InputNorm;
            break;
        case Next::InputNorm:
            add_norm(tensor);
            next_ = Next::V;
            break;
        case Next::V: {
            const std::vector<float> values = output_moments(tensor, moments_);
            moments_.resize(config_.q_dim());
            const int32_t repeat = config_.num_heads / config_.num_kv_heads, dim = config_.head_dim;
            for (int32_t i = 0; i < config_.q_dim(); ++i) moments_[i] = values[i / dim / repeat * dim + i % dim];
            next_ = Next::O;
            break;
        }
        case Next::O:
            add_to_residual(tensor);
            next_ = Next::PostAttentionNorm;
            break;
        case Next::PostAttentionNorm:
            add_norm(tensor);
            next_ = Next::Gate;
            break;
        case Next::Gate:
            gate_ = output_moments(tensor, moments_);
            next_ = Next::Up;
            break;
        case Next::Up:
            moments_ = output_moments(tensor, moments_);
            for (size_t i = 0; i < moments_.size(); ++i) moments_[i] *= silu_moment(gate_[i]);
            next_ = Next::Down;
            break;
        case Next::Down:
            add_to_residual(tensor);
            next_ = ++layer_ < config_.num_layers ? Next::InputNorm : Next::Norm;
            break;
        case Next::Norm:
            add_norm(tensor);
            next_ = Next::Head;
            break;
        case Next::Head:
            next_ = Next::Nothing;
            break;
        case Next::Nothing:
            break;
    }
}

void InputImportance::add_norm(const HostTensor& tensor) {
    std::vector<float> norm(tensor.cols);
    read_values(tensor, 0, tensor.cols, norm.data());
    const double mean = std::accumulate(residual_.begin(), residual_.end(), 0.0) / static_cast<double>(tensor.cols);
    moments_.resize(tensor.cols);
    importance_.resize(tensor.cols);
    for (int64_t i = 0; i < tensor.cols; ++i) {
        const float ratio = mean > 0 ? static_cast<float>(residual_[i] / mean) : 1.0f;
        moments_[i] = norm[i] * norm[i] * ratio;
        importance_[i] = moments_[i] * ratio;
    }
}

void InputImportance::add_to_residual(const HostTensor& tensor) {
    const std::vector<float> added = output_moments(tensor, moments_);
    for (size_t i = 0; i < residual_.size(); ++i) residual_[i] += added[i];
}

}  // namespace tinyllm
