// DecoderSpec: the tensors of a checkpoint fill the planned weights exactly, and kernels are told the right neighbours.
#include "model/decoder_spec.h"

#include <map>
#include <set>

#include "bench/presets.h"
#include "check.h"
#include "config/model_config.h"
#include "planning/plan.h"

using namespace tinyllm;
using namespace tinyllm::test;

namespace {

// The presets, and one with everything that they lack.
std::map<std::string, ModelConfig> configs() {
    std::map<std::string, ModelConfig> all;
    for (const bench::Preset& preset : bench::presets()) all[preset.name] = bench::preset_config(preset.name);
    ModelConfig& odd = all["odd"] = bench::preset_config("qwen3-0.6b");
    odd.qkv_bias = odd.o_bias = odd.mlp_bias = odd.rope_freq_factors = true;
    odd.sliding_window = 100;
    odd.sliding_window_first_layer = 3;
    ModelConfig& half = all["half"] = bench::preset_config("qwen2.5-0.5b");
    half.quantization = QuantizationType::NONE;
    return all;
}

int64_t size_of(const std::vector<int64_t>& shape) {
    int64_t size = 1;
    for (const int64_t dim : shape) size *= dim;
    return size;
}

// Elements of each planned weight, by its name; without scales.
std::map<std::string, int64_t> planned_weights(const ModelConfig& config) {
    std::map<std::string, int64_t> sizes;
    for (const PlanEntry& entry : make_plan(config, checked({})).entries)
        if (entry.component == Component::Weights || entry.component == Component::Embedding ||
            entry.component == Component::Norms)
            sizes[entry.name] = size_of(entry.shape);
    return sizes;
}

}  // namespace

TEST(the_tensors_fill_the_planned_weights) {
    for (const auto& [name, config] : configs()) {
        const DecoderSpec spec = make_decoder_spec(config);
        std::map<std::string, int64_t> sizes;  // of the checkpoint's tensors
        for (const CheckpointTensor& tensor : checkpoint_tensors(spec))
            if (!tensor.again) CHECK(sizes.emplace(tensor.name, size_of(tensor.shape)).second);
        std::map<std::string, int64_t> filled;
        const auto fill = [&](const std::string& entry, const std::string& tensor) {
            filled[entry] += sizes.at(tensor);
            sizes.erase(tensor);
        };
        for (const MatrixSpec* matrix : spec.matrices()) {
            for (const TensorSpec& tensor : matrix->tensors) {
                fill(matrix->name + ".weight", tensor.name + ".weight");
                if (matrix->bias) fill(matrix->name + ".bias", tensor.name + ".bias");
            }
        }
        for (const VectorSpec* vector : spec.vectors()) {
            if (vector->tensor.empty())
                filled[vector->name] = vector->size;  // the engine computes it
            else
                fill(vector->name, vector->tensor);
        }
        CHECK(sizes.empty());
        CHECK(filled == planned_weights(config));
    }
}

TEST(each_row_of_a_matrix_comes_from_one_row_of_a_tensor) {
    for (const auto& [name, config] : configs()) {
        const DecoderSpec spec = make_decoder_spec(config);
        for (const MatrixSpec* matrix : spec.matrices()) {
            std::vector<bool> taken(matrix->n);
            int32_t count = 0;
            for (const TensorSpec& tensor : matrix->tensors) {
                for (int32_t row = 0; row < tensor.num_rows; ++row) {
                    const int32_t target = tensor.rows.start + row * tensor.rows.stride;
                    if (target < 0 || target >= matrix->n || taken[target]) continue;
                    taken[target] = true;
                    ++count;
                }
            }
            CHECK(count == matrix->n);
        }
    }
}

TEST(tensors_come_in_the_order_of_the_forward_pass) {
    ModelConfig config = configs()["odd"];
    config.num_layers = 1;
    std::string names;
    std::string last;
    for (const CheckpointTensor& tensor : checkpoint_tensors(make_decoder_spec(config))) {
        names += tensor.name + "\n";
        last = tensor.again ? tensor.name : "";
    }
    CHECK(names ==
          "rope_freqs.weight\nembed_tokens.weight\nlayers.0.input_layernorm.weight\n"
          "layers.0.self_attn.q_proj.weight\nlayers.0.self_attn.q_proj.bias\n"
          "layers.0.self_attn.k_proj.weight\nlayers.0.self_attn.k_proj.bias\n"
          "layers.0.self_attn.v_proj.weight\nlayers.0.self_attn.v_proj.bias\n"
          "layers.0.self_attn.q_norm.weight\nlayers.0.self_attn.k_norm.weight\n"
          "layers.0.self_attn.o_proj.weight\nlayers.0.self_attn.o_proj.bias\n"
          "layers.0.post_attention_layernorm.weight\n"
          "layers.0.mlp.gate_proj.weight\nlayers.0.mlp.gate_proj.bias\n"
          "layers.0.mlp.up_proj.weight\nlayers.0.mlp.up_proj.bias\n"
          "layers.0.mlp.down_proj.weight\nlayers.0.mlp.down_proj.bias\n"
          "norm.weight\nembed_tokens.weight\n");
    CHECK(last == "embed_tokens.weight");
    config.quantization = QuantizationType::NONE;  // nothing is gained by a second time
    CHECK(checkpoint_tensors(make_decoder_spec(config)).back().name == "norm.weight");
}

TEST(windows_begin_at_their_first_layer) {
    const DecoderSpec spec = make_decoder_spec(configs()["odd"]);
    for (size_t i = 0; i < spec.layers.size(); ++i) CHECK(spec.layers[i].attention().shape.window == (i < 3 ? 0 : 100));
}

// Launch hints were guessed before there was a spec: matrices that add to the residual stream took the larger share,
// and attention looked at num_heads * head_dim to tell whether the output matrix has enough blocks of 16 rows for more
// than half of the SMs. Where both dimensions are the same, the pass over the spec says the same.
TEST(launch_hints_are_those_of_the_guesses_but_where_these_were_wrong) {
    constexpr int32_t kSms = 132, kTileRows = 16;
    const auto fills_sms = [](int32_t outputs) { return (outputs + kTileRows - 1) / kTileRows > kSms / 2; };
    std::set<std::string> differing;
    for (const bench::Preset& preset : bench::presets()) {
        const ModelConfig config = bench::preset_config(preset.name);
        const DecoderSpec spec = make_decoder_spec(config);
        for (const LayerSpec& layer : spec.layers) {
            for (const MatrixSpec& matrix : layer.matrices) {
                const bool adds_to_residual = matrix.tensors.front().role == TensorRole::Residual;
                CHECK(matrix.hints.larger_share == adds_to_residual);
                if (matrix.role != MatrixRole::Qkv) continue;
                CHECK(matrix.hints.next_outputs == config.hidden_dim);
                if (fills_sms(matrix.hints.next_outputs) != fills_sms(config.num_heads * config.head_dim))
                    differing.insert(preset.name);
            }
        }
        CHECK(!spec.output().hints.larger_share);
        CHECK(spec.output().hints.next_outputs == 0);
    }
    // 1024 outputs are 64 blocks, not the 128 of its 2048 attention outputs: its output matrix does not start early.
    CHECK(differing == std::set<std::string>{"qwen3-0.6b"});
}

TEST_MAIN()
