#include "testing/synthetic_model.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/dtype.h"
#include "core/parallel.h"
#include "quantization/random_weights.h"

namespace tinyllm::testing {

namespace {

constexpr int64_t kBlockElements = int64_t{1} << 29;
constexpr uint64_t kSeed = 1;

struct Tensor {
    std::string name;
    std::vector<int64_t> shape;

    int64_t size() const {
        int64_t size = 1;
        for (const int64_t dim : shape) size *= dim;
        return size;
    }
};

// All tensors of a checkpoint.
std::vector<Tensor> tensors_of(const ModelConfig& c) {
    std::vector<Tensor> tensors = {{"embed_tokens.weight", {c.vocab_size, c.hidden_dim}}};
    for (int i = 0; i < c.num_layers; ++i) {
        const std::string layer = "layers." + std::to_string(i) + ".";
        const auto vector = [&](const std::string& name, int64_t size) { tensors.push_back({layer + name, {size}}); };
        const auto linear = [&](const std::string& name, int64_t n, int64_t k, bool bias) {
            tensors.push_back({layer + name + ".weight", {n, k}});
            if (bias) vector(name + ".bias", n);
        };
        vector("input_layernorm.weight", c.hidden_dim);
        linear("self_attn.q_proj", c.q_dim(), c.hidden_dim, c.qkv_bias);
        linear("self_attn.k_proj", c.kv_dim(), c.hidden_dim, c.qkv_bias);
        linear("self_attn.v_proj", c.kv_dim(), c.hidden_dim, c.qkv_bias);
        if (c.qk_norm) {
            vector("self_attn.q_norm.weight", c.head_dim);
            vector("self_attn.k_norm.weight", c.head_dim);
        }
        linear("self_attn.o_proj", c.hidden_dim, c.q_dim(), c.o_bias);
        vector("post_attention_layernorm.weight", c.hidden_dim);
        linear("mlp.gate_proj", c.intermediate_dim, c.hidden_dim, c.mlp_bias);
        linear("mlp.up_proj", c.intermediate_dim, c.hidden_dim, c.mlp_bias);
        linear("mlp.down_proj", c.hidden_dim, c.intermediate_dim, c.mlp_bias);
    }
    tensors.push_back({"norm.weight", {c.hidden_dim}});
    if (!c.tie_word_embeddings) tensors.push_back({"lm_head.weight", {c.vocab_size, c.hidden_dim}});
    return tensors;
}

// `count` values of variance 1 / k, none of them zero.
std::vector<f16> random_block(int64_t count, int32_t k) {
    std::vector<f16> block(count);
    const float scale = to_float(random_weight_scale(k));
    f16 values[256];
    for (int32_t byte = 0; byte < 256; ++byte)
        values[byte] = from_float<f16>(static_cast<float>(random_weight(byte, 0)) * scale);
    const int64_t numbers = (count + kRandomBlock - 1) / kRandomBlock;
    parallel_for(numbers, 4096, [&](int, int64_t begin, int64_t end) {
        for (int64_t number = begin; number < end; ++number) {
            const uint64_t bits = random_bits(kSeed, 0, numbers, number);
            const int64_t first = number * kRandomBlock, n = std::min<int64_t>(kRandomBlock, count - first);
            for (int64_t i = 0; i < n; ++i) block[first + i] = values[bits >> (8 * i) & 0xff];
        }
    });
    return block;
}

}  // namespace

LoadResult load_synthetic(Runner& runner) {
    const ModelConfig& config = runner.model_config();
    std::vector<Tensor> tensors = tensors_of(config);
    int64_t largest = 0, total = 0;
    for (const Tensor& tensor : tensors) {
        largest = std::max(largest, tensor.size());
        total += tensor.size();
    }
    const std::vector<f16> block = random_block(std::max(largest, std::min(total, kBlockElements)), config.hidden_dim);
    // As the Python package does: a tied table comes again when it is known which of its inputs matter.
    if (config.tie_word_embeddings && config.quantization == QuantizationType::W8A16)
        tensors.push_back(tensors.front());

    int64_t at = 0;
    const auto start = std::chrono::steady_clock::now();
    for (const Tensor& tensor : tensors) {
        if (tensor.shape.size() == 1) {
            const std::vector<f16> ones(tensor.size(), from_float<f16>(1.0f));
            runner.load_tensor(tensor.name, DType::F16, tensor.shape, ones.data());
            continue;
        }
        if (at + tensor.size() > static_cast<int64_t>(block.size())) at = 0;
        runner.load_tensor(tensor.name, DType::F16, tensor.shape, block.data() + at);
        at += tensor.size();
    }
    runner.finish_load();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return {seconds, static_cast<uint64_t>(total) * sizeof(f16), block.size() * sizeof(f16)};
}

std::vector<int32_t> random_tokens(int32_t count, int32_t vocab_size, uint64_t seed) {
    std::vector<int32_t> tokens(count);
    for (int32_t i = 0; i < count; ++i)
        tokens[i] = static_cast<int32_t>(random_bits(seed, i, 1, 0) % static_cast<uint64_t>(vocab_size));
    return tokens;
}

}  // namespace tinyllm::testing
