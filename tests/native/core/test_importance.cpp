// The estimate of how much each input matters, against its formulas worked out by hand on a model of a few numbers.
#include "loading/importance.h"

#include "check.h"
#include "config/model_config.h"
#include "quantization/moments.h"
#include "tolerances.h"

using namespace tinyllm;
using namespace tinyllm::test;

namespace {

// Two heads that share a value head, all of one element.
ModelConfig tiny_config() {
    ModelConfig config;
    config.hidden_dim = 2;
    config.intermediate_dim = 1;
    config.num_layers = 1;
    config.num_heads = 2;
    config.num_kv_heads = 1;
    config.head_dim = 1;
    return config;
}

// Takes in the tensor as WeightLoader does: a matrix with the moments that are asked for, a vector (of one row) as
// such.
void add(InputImportance& importance, const std::string& name, int64_t rows, const std::vector<float>& values) {
    if (name.find("norm") != std::string::npos) return importance.add_vector(name, values);
    const HostTensor tensor{DType::F32, rows, static_cast<int64_t>(values.size()) / rows, values.data()};
    const LinearLoad load = importance.load_of(name, rows);
    CHECK(load.search_scales);
    CHECK(load.importance == importance.of(name));
    if (load.output_moments != nullptr) output_moments(tensor, load.input_moments, load.output_moments);
    if (load.column_moments != nullptr) column_moments(tensor, load.column_moments);
    importance.add_matrix(name);
}

void check_importance(const InputImportance& importance, const std::string& name, const std::vector<double>& expected) {
    const float* const found = importance.of(name);
    CHECK(found != nullptr);
    for (size_t i = 0; found != nullptr && i < expected.size(); ++i) CHECK_CLOSE(found[i], expected[i], kFloatSums);
}

}  // namespace

TEST(follows_the_second_moments) {
    InputImportance importance(make_decoder_spec(tiny_config()));
    const std::string attention = "layers.0.self_attn.", mlp = "layers.0.mlp.";
    CHECK(importance.of("embed_tokens.weight") == nullptr);
    add(importance, "embed_tokens.weight", 2, {1, 2, 3, 0});  // S = {5, 2}, mean 3.5
    add(importance, "layers.0.input_layernorm.weight", 1, {2, 1});
    const double x0 = 4 * 5 / 3.5, x1 = 2 / 3.5;  // moments behind the norm
    for (const char* name : {"q_proj.weight", "k_proj.weight", "v_proj.weight"})
        check_importance(importance, attention + name, {x0 * 5 / 3.5, x1 * 2 / 3.5});
    add(importance, attention + "q_proj.weight", 2, {1, 1, 1, 1});  // of no consequence
    add(importance, attention + "v_proj.weight", 1, {1, -2});
    const double v = x0 + 4 * x1;
    check_importance(importance, attention + "o_proj.weight", {v, v});
    add(importance, attention + "o_proj.weight", 2, {1, 0, 1, 2});
    const double s0 = 5 + v, s1 = 2 + 5 * v, mean = (s0 + s1) / 2;
    add(importance, "layers.0.post_attention_layernorm.weight", 1, {1, 1});
    check_importance(importance, mlp + "gate_proj.weight", {s0 / mean * s0 / mean, s1 / mean * s1 / mean});
    add(importance, mlp + "gate_proj.weight", 1, {2, 0});
    check_importance(importance, mlp + "up_proj.weight", {s0 / mean * s0 / mean, s1 / mean * s1 / mean});
    add(importance, mlp + "up_proj.weight", 1, {0, 3});
    const double gate = 4 * s0 / mean, up = 9 * s1 / mean;
    const double silu = gate * (0.5 - 0.25 / std::pow(1 + gate / 2, 1.5));
    check_importance(importance, mlp + "down_proj.weight", {silu * up});
    add(importance, mlp + "down_proj.weight", 2, {1, 0});
    const double t0 = s0 + silu * up, t1 = s1, last_mean = (t0 + t1) / 2;
    add(importance, "norm.weight", 1, {3, 1});
    check_importance(importance, "lm_head.weight",
                     {9 * t0 / last_mean * t0 / last_mean, t1 / last_mean * t1 / last_mean});
}

TEST(inputs_count_equally_from_the_first_late_tensor_on) {
    InputImportance importance(make_decoder_spec(tiny_config()));
    add(importance, "layers.0.input_layernorm.weight", 1, {2, 1});  // before the embedding
    CHECK(importance.of("layers.0.self_attn.q_proj.weight") == nullptr);
    add(importance, "embed_tokens.weight", 2, {1, 2, 3, 0});
    add(importance, "layers.0.self_attn.v_proj.weight", 1, {1, -2});
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"})
        CHECK(importance.of(std::string("layers.0.self_attn.") + name + ".weight") == nullptr);
    CHECK(importance.of("lm_head.weight") == nullptr);
}

TEST(a_tied_table_counts_like_an_output_matrix_when_it_comes_again) {
    ModelConfig config = tiny_config();
    config.tie_word_embeddings = true;
    InputImportance importance(make_decoder_spec(config));
    CHECK(importance.of("embed_tokens.weight") == nullptr);
    const std::vector<std::string> names = {"self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
                                            "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
    const std::vector<int64_t> rows = {1, 2, 1, 1, 1, 2};
    add(importance, "embed_tokens.weight", 2, {1, 2, 3, 0});
    add(importance, "layers.0.input_layernorm.weight", 1, {1, 1});
    for (size_t i = 0; i < names.size(); ++i) {  // all zero: nothing is added to S
        CHECK(importance.of("embed_tokens.weight") == nullptr);
        add(importance, "layers.0." + names[i] + ".weight", rows[i], std::vector<float>(i == 5 ? 2 : rows[i] * 2));
    }
    add(importance, "norm.weight", 1, {3, 1});
    check_importance(importance, "embed_tokens.weight", {9 * 25 / 12.25, 4 / 12.25});
    add(importance, "embed_tokens.weight", 2, {1, 2, 3, 0});
    CHECK(importance.of("embed_tokens.weight") == nullptr);
}

TEST(a_model_of_zeros_counts_equally) {
    InputImportance importance(make_decoder_spec(tiny_config()));
    add(importance, "embed_tokens.weight", 2, {0, 0, 0, 0});
    add(importance, "layers.0.input_layernorm.weight", 1, {1, 1});
    check_importance(importance, "layers.0.self_attn.q_proj.weight", {1, 1});
}

TEST_MAIN()
