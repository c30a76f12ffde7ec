#include "loading/importance.h"

#include <algorithm>
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

InputImportance::InputImportance(const DecoderSpec& spec) : residual_(spec.hidden_dim) {
    const auto matrix = [](const MatrixSpec& matrix) { return matrix.tensors.front().name + ".weight"; };
    steps_.push_back({TensorRole::Embedding, matrix(spec.embedding), {}, {}});
    for (const LayerSpec& layer : spec.layers) add_steps(layer);
    steps_.push_back({{}, spec.norm.tensor, {}, {}});
    steps_.push_back({TensorRole::Logits, matrix(spec.output()), {}, {}});
}

void InputImportance::add_steps(const LayerSpec& layer) {
    for (const MatrixSpec& matrix : layer.matrices) {
        for (const VectorSpec& vector : layer.vectors)
            if (vector.before == matrix.role && normalizes_residual(vector.role))
                steps_.push_back({{}, vector.tensor, {}, {}});
        std::vector<std::string> beside;
        for (const TensorSpec& tensor : matrix.tensors) {
            const std::string name = tensor.name + ".weight";
            if (passes_moments(tensor.role))
                steps_.push_back({tensor.role, name, beside, layer.attention().shape});
            else
                beside.push_back(name);
        }
    }
}

const InputImportance::Step* InputImportance::step_of(const std::string& name) const {
    return next_ < steps_.size() && steps_[next_].tensor == name ? &steps_[next_] : nullptr;
}

const float* InputImportance::of(const std::string& name) const {
    if (next_ == steps_.size()) return nullptr;
    const Step& step = steps_[next_];
    if (name != step.tensor && std::find(step.beside.begin(), step.beside.end(), name) == step.beside.end())
        return nullptr;
    if (step.role == TensorRole::Residual) return moments_.data();
    return importance_.empty() ? nullptr : importance_.data();
}

LinearLoad InputImportance::load_of(const std::string& name, int64_t rows) {
    LinearLoad load{.search_scales = true, .importance = of(name)};
    const Step* const step = step_of(name);
    if (step == nullptr || step->role == TensorRole::Logits) return load;
    if (step->role == TensorRole::Embedding) {
        found_.resize(residual_.size());
        load.column_moments = found_.data();
    } else {
        found_.resize(rows);
        load.input_moments = moments_.data();
        load.output_moments = found_.data();
    }
    return load;
}

void InputImportance::add_matrix(const std::string& name) {
    const Step* const step = step_of(name);
    if (step == nullptr) return;
    if (step->role == TensorRole::Embedding) {
        residual_ = found_;
    } else if (step->role == TensorRole::Value) {
        add_value(step->attention);
    } else if (step->role == TensorRole::Gate) {
        gate_ = found_;
    } else if (step->role == TensorRole::Up) {
        moments_ = found_;
        for (size_t i = 0; i < moments_.size(); ++i) moments_[i] *= silu_moment(gate_[i]);
    } else if (step->role == TensorRole::Residual) {
        add_to_residual();
    }
    ++next_;
}

void InputImportance::add_vector(const std::string& name, const std::vector<float>& values) {
    if (step_of(name) == nullptr) return;
    add_norm(values);
    ++next_;
}

// Attention gives each query head the values of the head that serves it.
void InputImportance::add_value(const AttentionShape& shape) {
    const int32_t dim = shape.head_dim;
    moments_.resize(shape.q_dim());
    for (int32_t i = 0; i < shape.q_dim(); ++i) moments_[i] = found_[i / dim / shape.q_per_kv() * dim + i % dim];
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
