// The whole engine on made-up weights, natively: what the sanitizers watch.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "core/error.h"
#include "engine/engine_cases.h"
#include "planning/overhead.h"
#include "planning/plan.h"
#include "testing/synthetic_model.h"

using namespace tinyllm;
using namespace tinyllm::test;

TEST_CASE("requests of all kinds finish and repeat") {
    for (const DType dtype : {DType::F16, DType::BF16, DType::F32}) {
        for (const bool quantized : {true, false}) {
            ModelConfig model = small_model();
            model.dtype = dtype;
            model.quantization = quantized ? QuantizationType::W8A16 : QuantizationType::NONE;
            Batcher engine(model, small_engine(3, 130));
            testing::load_synthetic(engine.runner());
            std::vector<uint64_t> ids;
            for (const int32_t length : {1, 64, 100, 33, 100})
                ids.push_back(
                    engine.submit(testing::random_tokens(length, model.vocab_size, length), filtered(9), nullptr));
            std::vector<float> logits(70 * model.vocab_size);
            engine.submit(testing::random_tokens(70, model.vocab_size, 1), limit(0), logits.data());
            auto tokens = run(engine);
            for (const uint64_t id : ids) CHECK(tokens[id].size() == 9);
            CHECK(tokens[ids[2]] == tokens[ids[4]]);
            CHECK(std::all_of(logits.begin(), logits.end(), [](float value) { return std::isfinite(value); }));
            CHECK(engine.free_pages() == engine.total_pages());
            CHECK(engine.runner().tracker().total().current_bytes == engine.runner().plan().total());
        }
    }
    CHECK(MemoryTracker::live_bytes_in_process() == 0);
}

TEST_CASE("recomputing gives the same bits") {
    std::vector<float> logits[2];
    for (const bool recompute : {false, true}) {
        ModelConfig model = small_model();
        model.recompute_activations = recompute;
        Batcher engine(model, small_engine(1, 200, 128));
        testing::load_synthetic(engine.runner());
        logits[recompute].resize(150 * model.vocab_size);
        engine.submit(testing::random_tokens(150, model.vocab_size, 2), limit(0), logits[recompute].data());
        run(engine);
    }
    CHECK(logits[0] == logits[1]);
}

TEST_CASE("wrong requests and tensors are refused") {
    const ModelConfig model = small_model();
    Batcher engine(model, small_engine(1, 64));
    CHECK_THROWS_WITH(engine.submit({1}, limit(1), nullptr), doctest::Contains("after the weights are loaded"));
    CHECK_THROWS_WITH(engine.runner().finish_load(), doctest::Contains("tensors are missing"));
    const std::vector<float> zeros(model.vocab_size * model.hidden_dim);
    CHECK_THROWS_WITH(engine.runner().load_tensor("nonsense", DType::F32, {1}, zeros.data()),
                      doctest::Contains("'nonsense'"));
    CHECK_THROWS_WITH(engine.runner().load_tensor("norm.weight", DType::F32, {7}, zeros.data()),
                      doctest::Contains("expected shape [72], found [7]"));
    std::vector<float> bad(zeros);
    bad[72 * 3 + 5] = NAN;
    CHECK_THROWS_WITH(engine.runner().load_tensor("embed_tokens.weight", DType::F32, {131, 72}, bad.data()),
                      doctest::Contains("[3, 5]"));
    testing::load_synthetic(engine.runner());
    CHECK_THROWS_WITH(engine.runner().load_tensor("norm.weight", DType::F32, {72}, zeros.data()),
                      doctest::Contains("after loading"));
    CHECK_THROWS_WITH(engine.submit({}, limit(1), nullptr), doctest::Contains("no tokens"));
    CHECK_THROWS_WITH(engine.submit({131}, limit(1), nullptr), doctest::Contains("token id 131"));
    CHECK_THROWS_WITH(engine.submit(std::vector<int32_t>(65, 1), limit(1), nullptr), doctest::Contains("65 tokens"));
    CHECK_THROWS_WITH(engine.submit({1}, limit(0), nullptr), doctest::Contains("max_new_tokens"));
}

TEST_CASE("a refusal names what would fit") {
    const ModelConfig model = small_model();
    const EngineConfig wanted = small_engine(8, 256);
    const MemoryPlan plan = make_plan(model, wanted);
    const uint64_t loading = UINT64_MAX - plan_budget(model, wanted, UINT64_MAX);
    const auto refusal = [&](uint64_t free_bytes) { require_fit(plan, model, wanted, free_bytes); };
    refusal(plan.total() + loading);  // fits
    CHECK_THROWS_WITH(refusal(plan.total() + loading - 1),
                      doctest::Contains("; would fit: 192 tokens at batch 8, or 256 tokens at batch 7"));
    const uint64_t smallest = make_plan(model, small_engine(1, kPageTokens)).total() + loading;
    CHECK_THROWS_WITH(refusal(smallest), doctest::Contains("; would fit: 64 tokens at batch 1"));
    CHECK_THROWS_WITH(refusal(smallest - 1),
                      doctest::Contains("; not even one page of context fits beside the weights"));
}

TEST_CASE("every failing allocation leaves nothing") {
    for (int64_t countdown = 1;; ++countdown) {
        MemoryTracker::fail_after(countdown);
        try {
            Batcher engine(small_model(), small_engine(2, 100));
            testing::load_synthetic(engine.runner());
            MemoryTracker::fail_after(0);
            CHECK(countdown > 20);
            return;
        } catch (const Error& error) {
            CHECK(error.status() == TL_STATUS_OUT_OF_MEMORY);
        }
        CHECK(MemoryTracker::live_bytes_in_process() == 0);
    }
}
