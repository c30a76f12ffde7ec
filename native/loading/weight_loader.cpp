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
    : spec_(make_decoder_spec(config)), backend_(backend), tracker_(tracker), memory_(memory), importance_(spec_) {
    weights_.embedding = add_matrix(spec_.embedding);
    weights_.head = spec_.head ? add_matrix(*spec_.head) : weights_.embedding;
    weights_.norm = add_norm(spec_.norm);
    weights_.rope = rope_params(spec_.rope, static_cast<float*>(memory_.at(spec_.inv_freq.name)));
    if (!spec_.inv_freq.tensor.empty()) {
        freq_factors_.resize(spec_.inv_freq.size);
        targets_.push_back({spec_.inv_freq.tensor, {}, nullptr, {}, spec_.inv_freq.size});
    }
    for (const LayerSpec& layer : spec_.layers) {
        LayerWeights& weights = weights_.layers.emplace_back();
        for (const MatrixSpec& matrix : layer.matrices) weights.at(matrix.role) = add_matrix(matrix);
        for (const VectorSpec& vector : layer.vectors) weights.at(vector.role) = add_norm(vector);
    }
    std::sort(targets_.begin(), targets_.end(), [](const Target& a, const Target& b) { return a.name < b.name; });
}

// Padding must be zero, and biases arrive in parts, so both are cleared first.
LinearWeight WeightLoader::linear(const MatrixSpec& spec) const {
    const LinearLayout layout = spec.layout(backend_.kind());
    LinearWeight weight{
        spec.n,  spec.k,  spec.quantization, spec.group_length, spec.dtype, memory_.at(spec.name + ".weight"),
        nullptr, nullptr, spec.hints};
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

LinearWeight WeightLoader::add_matrix(const MatrixSpec& spec) {
    const LinearWeight weight = linear(spec);
    const bool shared = spec.tensors.size() > 1;
    for (const TensorSpec& tensor : spec.tensors) {
        targets_.push_back({tensor.name + ".weight", weight, nullptr, tensor.rows, tensor.num_rows});
        if (spec.bias)
            targets_.push_back({tensor.name + ".bias", {}, weight.bias, tensor.rows, tensor.num_rows, shared});
    }
    return weight;
}

NormWeight WeightLoader::add_norm(const VectorSpec& spec) {
    auto* const data = static_cast<float*>(memory_.at(spec.name));
    targets_.push_back({spec.tensor, {}, data, {}, spec.size});
    return {data, spec_.norm_eps};
}

void WeightLoader::load(const std::string& name, DType dtype, const std::vector<int64_t>& shape, const void* data) {
    const auto found = std::lower_bound(targets_.begin(), targets_.end(), name,
                                        [](const Target& target, const std::string& key) { return target.name < key; });
    if (found == targets_.end() || found->name != name)
        fail(TL_STATUS_CHECKPOINT, "tensor '", name, "' does not belong to this model");
    Target& target = *found;
    const bool is_matrix = target.weight.data != nullptr;
    // A tied table may come again once it is known how its inputs count as the output matrix.
    const bool comes_again =
        is_matrix && !spec_.head && target.weight.data == weights_.embedding.data && importance_.of(name) != nullptr;
    if (target.loaded && !comes_again) fail(TL_STATUS_CHECKPOINT, "tensor '", name, "' was loaded twice");
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
    const bool quantized = spec_.quantization == QuantizationType::W8A16;
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
    for (const MatrixSpec* spec : spec_.matrices()) backend_.fill_random(linear(*spec), seed++);
    for (const VectorSpec* spec : spec_.vectors()) {
        const std::vector<float> ones(spec->size, 1.0f);
        backend_.upload(memory_.at(spec->name), ones.data(), ones.size() * sizeof(float));
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
    const std::vector<float> inv_freq = rope_inv_freq(spec_.rope, freq_factors_);
    backend_.upload(memory_.at(spec_.inv_freq.name), inv_freq.data(), inv_freq.size() * sizeof(float));
    backend_.finish_load();
    backend_.synchronize();
}

}  // namespace tinyllm
