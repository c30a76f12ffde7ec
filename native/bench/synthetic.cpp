#include "bench/synthetic.h"

#include <chrono>
#include <cmath>

#include "core/dtype.h"
#include "core/parallel.h"

namespace tinyllm::bench {

namespace {

// splitmix64 (Steele, Lea and Flood, OOPSLA 2014): one multiply-shift mix of a counter, so that any part can be made
// on any thread.
uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

// Uniform in [-limit, limit], as float16.
std::vector<f16> random_block(int64_t count, float limit, uint64_t seed) {
    std::vector<f16> block(count);
    parallel_for(count, 4096, [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const float unit = static_cast<float>(mix(seed + i) >> 40) * 0x1p-23f - 1.0f;
            block[i] = from_float<f16>(unit * limit);
        }
    });
    return block;
}

class Loader {
public:
    explicit Loader(Engine& engine) : engine_(engine) {}

    // The same random values serve every matrix; each begins elsewhere in the block.
    void matrix(const std::string& name, int64_t n, int64_t k) {
        const int64_t count = n * k;
        // Variance 1 / k keeps the size of activations: a uniform value in [-a, a] has variance a^2 / 3.
        const float limit = std::sqrt(3.0f / static_cast<float>(k));
        const auto at = static_cast<size_t>(k);
        if (blocks_.size() <= at) blocks_.resize(at + 1);
        if (static_cast<int64_t>(blocks_[at].size()) < count) blocks_[at] = random_block(count, limit, at);
        load(name, {n, k}, blocks_[at].data());
    }
    void vector(const std::string& name, int64_t size) {
        const std::vector<f16> ones(size, from_float<f16>(1.0f));
        load(name, {size}, ones.data());
    }
    LoadResult result() const { return result_; }

private:
    void load(const std::string& name, const std::vector<int64_t>& shape, const f16* data) {
        const auto start = std::chrono::steady_clock::now();
        engine_.load_tensor(name, DType::F16, shape, data);
        result_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        uint64_t bytes = sizeof(f16);
        for (const int64_t dim : shape) bytes *= static_cast<uint64_t>(dim);
        result_.bytes += bytes;
    }

    Engine& engine_;
    std::vector<std::vector<f16>> blocks_;  // by k
    LoadResult result_{0, 0};
};

}  // namespace

LoadResult load_synthetic(Engine& engine) {
    const ModelConfig& c = engine.model_config();
    Loader loader(engine);
    loader.matrix("embed_tokens.weight", c.vocab_size, c.hidden_dim);
    for (int i = 0; i < c.num_layers; ++i) {
        const std::string layer = "layers." + std::to_string(i) + ".";
        const auto linear = [&](const std::string& name, int64_t n, int64_t k, bool bias) {
            loader.matrix(layer + name + ".weight", n, k);
            if (bias) loader.vector(layer + name + ".bias", n);
        };
        loader.vector(layer + "input_layernorm.weight", c.hidden_dim);
        linear("self_attn.q_proj", c.q_dim(), c.hidden_dim, c.qkv_bias);
        linear("self_attn.k_proj", c.kv_dim(), c.hidden_dim, c.qkv_bias);
        linear("self_attn.v_proj", c.kv_dim(), c.hidden_dim, c.qkv_bias);
        if (c.qk_norm) {
            loader.vector(layer + "self_attn.q_norm.weight", c.head_dim);
            loader.vector(layer + "self_attn.k_norm.weight", c.head_dim);
        }
        linear("self_attn.o_proj", c.hidden_dim, c.q_dim(), c.o_bias);
        loader.vector(layer + "post_attention_layernorm.weight", c.hidden_dim);
        linear("mlp.gate_proj", c.intermediate_dim, c.hidden_dim, c.mlp_bias);
        linear("mlp.up_proj", c.intermediate_dim, c.hidden_dim, c.mlp_bias);
        linear("mlp.down_proj", c.hidden_dim, c.intermediate_dim, c.mlp_bias);
    }
    loader.vector("norm.weight", c.hidden_dim);
    if (!c.tie_word_embeddings) loader.matrix("lm_head.weight", c.vocab_size, c.hidden_dim);
    engine.finish_load();
    return loader.result();
}

std::vector<int32_t> random_tokens(int32_t count, int32_t vocab_size, uint64_t seed) {
    std::vector<int32_t> tokens(count);
    for (int32_t i = 0; i < count; ++i) tokens[i] = static_cast<int32_t>(mix(seed * 1000003 + i) % vocab_size);
    return tokens;
}

}  // namespace tinyllm::bench
