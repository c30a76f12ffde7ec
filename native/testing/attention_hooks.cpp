// Test hooks of the ops around attention: rope_inv_freq, rope_table, qkv, attention.
#include <algorithm>
#include <limits>
#include <vector>

#include "api/api_guard.h"
#include "config/model_config.h"
#include "model/decoder_spec.h"
#include "ops/kv_cache.h"
#include "ops/rope.h"
#include "testing/test_run.h"
#include "testing/testing.h"

namespace tinyllm::testing {

namespace {

AttentionShape attention_shape(const tl_test_attention_shape& shape) {
    return {shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.window, shape.softmax_scale};
}

int64_t kv_elements(const tl_test_batch& batch, const tl_test_attention_shape& shape) {
    return kv_layer_elements(batch.num_pages, shape.num_kv_heads, shape.head_dim);
}

void rope_inv_freq(const tl_model_config& config, const float* freq_factors, float* inv_freq) {
    const RopeSpec rope = make_decoder_spec(ModelConfig::from_c(config)).rope;
    std::vector<float> factors;
    if (freq_factors != nullptr) factors.assign(freq_factors, freq_factors + rope.rotary_dim / 2);
    const std::vector<float> result = tinyllm::rope_inv_freq(rope, factors);
    std::copy(result.begin(), result.end(), inv_freq);
}

float* rope_table(TestRun& run, const RopeParams& rope) {
    const int64_t count = int64_t{run.batch().num_rows} * rope.rotary_dim;
    auto* cos_sin = static_cast<float*>(run.poisoned(count * sizeof(float), "cos_sin"));
    run.backend().rope_table(run.batch(), rope, cos_sin);
    return cos_sin;
}

void rope_table(const tl_test_target& target, const tl_test_batch& batch, const tl_test_rope& rope, float* cos_sin) {
    TestRun run(target, {}, batch);
    const float* table = rope_table(run, run.rope(rope));
    run.finish();
    run.download(cos_sin, table, int64_t{batch.num_rows} * rope.rotary_dim);
}

void qkv(const tl_test_target& target, const tl_test_batch& batch, const tl_test_qkv_weights& weights,
         const tl_test_attention_shape& c_shape, const tl_test_rope& c_rope, const float* hidden, float* kv, float* q) {
    const AttentionShape shape = attention_shape(c_shape);
    const int32_t hidden_dim = weights.q.cols;
    const int32_t q_dim = shape.num_heads * shape.head_dim, kv_dim = shape.num_kv_heads * shape.head_dim;
    TestRun run(target, {{{shape.qkv_dim(), hidden_dim}}, {shape}, 0}, batch);

    QkvWeights packed;
    packed.input_norm = run.norm(weights.input_norm, hidden_dim, "input_norm");
    const std::vector<LinearPart> parts{{{0, 1}, weights.q}, {{q_dim, 1}, weights.k}, {{q_dim + kv_dim, 1}, weights.v}};
    packed.qkv = run.linear(shape.qkv_dim(), parts, "qkv weight");
    packed.q_norm = run.norm(weights.q_norm, shape.head_dim, "q_norm");
    packed.k_norm = run.norm(weights.k_norm, shape.head_dim, "k_norm");

    const RopeParams rope = run.rope(c_rope);
    const float* cos_sin = rope_table(run, rope);
    const int64_t rows = batch.num_rows, cache_size = kv_elements(batch, c_shape);
    const void* device_hidden = run.uploaded_as_t(hidden, rows * hidden_dim, "hidden");
    void* normed = run.poisoned(run.bytes(rows * hidden_dim), "normed");
    void* device_qkv = run.poisoned(run.bytes(rows * shape.qkv_dim()), "qkv");
    const KvLayer cache{run.uploaded_as_t(kv, cache_size, "kv")};
    run.backend().qkv(run.batch(), packed, shape, rope, cos_sin, device_hidden, normed, device_qkv, cache);
    run.finish();
    run.download_from_t(q, device_qkv, rows, q_dim, shape.qkv_dim());
    run.download_from_t(kv, cache.data, 1, cache_size, cache_size);
}

void attention(const tl_test_target& target, const tl_test_batch& batch, const tl_test_attention_shape& c_shape,
               const float* q, const float* kv, float* out) {
    const AttentionShape shape = attention_shape(c_shape);
    TestRun run(target, {{}, {shape}, 0}, batch);
    const int64_t rows = batch.num_rows, q_dim = int64_t{shape.num_heads} * shape.head_dim;
    std::vector<float> qkv(rows * shape.qkv_dim(), std::numeric_limits<float>::quiet_NaN());
    for (int64_t r = 0; r < rows; ++r) std::copy_n(q + r * q_dim, q_dim, qkv.data() + r * shape.qkv_dim());
    const void* device_qkv = run.uploaded_as_t(qkv.data(), static_cast<int64_t>(qkv.size()), "qkv");
    const KvLayer cache{run.uploaded_as_t(kv, kv_elements(batch, c_shape), "kv")};
    void* device_out = run.poisoned(run.bytes(rows * q_dim), "out");
    run.backend().attention(run.batch(), shape, device_qkv, cache, device_out);
    run.finish();
    run.download_from_t(out, device_out, rows, q_dim, q_dim);
}

}  // namespace

}  // namespace tinyllm::testing

using namespace tinyllm;

tl_status tl_test_rope_inv_freq(const tl_model_config* config, const float* freq_factors, float* inv_freq) {
    return guarded([&] { testing::rope_inv_freq(*config, freq_factors, inv_freq); });
}

tl_status tl_test_rope_table(const tl_test_target* target, const tl_test_batch* batch, const tl_test_rope* rope,
                             float* cos_sin) {
    return guarded([&] { testing::rope_table(*target, *batch, *rope, cos_sin); });
}

tl_status tl_test_qkv(const tl_test_target* target, const tl_test_batch* batch, const tl_test_qkv_weights* weights,
                      const tl_test_attention_shape* shape, const tl_test_rope* rope, const float* hidden, float* kv,
                      float* q) {
    return guarded([&] { testing::qkv(*target, *batch, *weights, *shape, *rope, hidden, kv, q); });
}

tl_status tl_test_attention(const tl_test_target* target, const tl_test_batch* batch,
                            const tl_test_attention_shape* shape, const float* q, const float* kv, float* out) {
    return guarded([&] { testing::attention(*target, *batch, *shape, q, kv, out); });
}
