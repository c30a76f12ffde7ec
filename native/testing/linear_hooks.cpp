// Test hooks of the ops around linear layers: embed, linear_residual, gate_up, logits.
#include <vector>

#include "api/api_guard.h"
#include "core/error.h"
#include "testing/test_run.h"
#include "testing/testing.h"

namespace tinyllm::testing {

namespace {

ModelShapes one_matrix(int32_t n, int32_t k) { return {{{n, k}}, {}, 0}; }

void embed(const tl_test_target& target, const tl_test_batch& batch, const tl_test_tensor& table, uint32_t* seen,
           float* hidden) {
    TestRun run(target, {}, batch);
    const LinearWeight weight = run.linear(table.rows, {{{}, table}}, "table");
    void* out = run.poisoned(run.bytes(int64_t{batch.num_rows} * table.cols), "hidden");
    const int64_t seen_words = int64_t{batch.num_slots} * ((table.rows + 31) / 32);
    uint32_t* device_seen = seen == nullptr ? nullptr : run.uploaded(seen, seen_words, "seen");
    run.backend().embed(run.batch(), weight, device_seen, out);
    run.finish();
    run.download_from_t(hidden, out, batch.num_rows, table.cols, table.cols);
    if (seen != nullptr) run.download(seen, device_seen, seen_words);
}

void linear_residual(const tl_test_target& target, const tl_test_batch& batch, const tl_test_tensor& weight,
                     const float* x, float* hidden) {
    const int32_t n = weight.rows, k = weight.cols;
    TestRun run(target, one_matrix(n, k), batch);
    LinearWeight packed = run.linear(n, {{{}, weight}}, "weight");
    packed.hints.larger_share = true;  // as in a model, where another matrix comes before
    const void* device_x = run.uploaded_as_t(x, int64_t{batch.num_rows} * k, "x");
    void* device_hidden = run.uploaded_as_t(hidden, int64_t{batch.num_rows} * n, "hidden");
    run.backend().linear_residual(run.batch(), packed, device_x, device_hidden);
    run.finish();
    run.download_from_t(hidden, device_hidden, batch.num_rows, n, n);
}

void gate_up(const tl_test_target& target, const tl_test_batch& batch, const tl_test_norm& norm,
             const tl_test_tensor& gate, const tl_test_tensor& up, const float* hidden, float* out) {
    const int32_t hidden_dim = gate.cols, intermediate_dim = gate.rows;
    TestRun run(target, one_matrix(2 * intermediate_dim, hidden_dim), batch);
    const std::vector<LinearPart> parts{{{0, 2}, gate}, {{1, 2}, up}};
    const LinearWeight packed = run.linear(2 * intermediate_dim, parts, "gate_up");
    const NormWeight device_norm = run.norm(norm, hidden_dim, "norm");
    const int64_t hidden_size = int64_t{batch.num_rows} * hidden_dim;
    const void* device_hidden = run.uploaded_as_t(hidden, hidden_size, "hidden");
    void* normed = run.poisoned(run.bytes(hidden_size), "normed");
    void* device_out = run.poisoned(run.bytes(int64_t{batch.num_rows} * intermediate_dim), "out");
    run.backend().gate_up(run.batch(), device_norm, packed, device_hidden, normed, device_out);
    run.finish();
    run.download_from_t(out, device_out, batch.num_rows, intermediate_dim, intermediate_dim);
}

void logits(const tl_test_target& target, const tl_test_batch& batch, const tl_test_norm& norm,
            const tl_test_tensor& head, const float* hidden, const int32_t* logits_rows, int32_t num_logits,
            float* logits) {
    const int32_t vocab_size = head.rows, hidden_dim = head.cols;
    TestRun run(target, one_matrix(vocab_size, hidden_dim), batch);
    run.set_logits_rows(logits_rows, num_logits);
    const LinearWeight packed = run.linear(vocab_size, {{{}, head}}, "head");
    const NormWeight device_norm = run.norm(norm, hidden_dim, "norm");
    const void* device_hidden = run.uploaded_as_t(hidden, int64_t{batch.num_rows} * hidden_dim, "hidden");
    void* normed = run.poisoned(run.bytes(int64_t{num_logits} * hidden_dim), "normed");
    const int64_t count = int64_t{num_logits} * vocab_size;
    auto* device_logits = static_cast<float*>(run.poisoned(count * sizeof(float), "logits"));
    run.backend().logits(run.batch(), device_norm, packed, device_hidden, normed, device_logits);
    run.finish();
    run.download(logits, device_logits, count);
}

}  // namespace

}  // namespace tinyllm::testing

using namespace tinyllm;

tl_status tl_test_embed(const tl_test_target* target, const tl_test_batch* batch, const tl_test_tensor* table,
                        uint32_t* seen, float* hidden) {
    return guarded([&] { testing::embed(*target, *batch, *table, seen, hidden); });
}

tl_status tl_test_linear_residual(const tl_test_target* target, const tl_test_batch* batch,
                                  const tl_test_tensor* weight, const float* x, float* hidden) {
    return guarded([&] { testing::linear_residual(*target, *batch, *weight, x, hidden); });
}

tl_status tl_test_gate_up(const tl_test_target* target, const tl_test_batch* batch, const tl_test_norm* norm,
                          const tl_test_tensor* gate, const tl_test_tensor* up, const float* hidden, float* out) {
    return guarded([&] { testing::gate_up(*target, *batch, *norm, *gate, *up, hidden, out); });
}

tl_status tl_test_logits(const tl_test_target* target, const tl_test_batch* batch, const tl_test_norm* norm,
                         const tl_test_tensor* head, const float* hidden, const int32_t* logits_rows,
                         int32_t num_logits, float* logits) {
    return guarded([&] { testing::logits(*target, *batch, *norm, *head, hidden, logits_rows, num_logits, logits); });
}
