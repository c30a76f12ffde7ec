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

TEST(requests_of_all_kinds_finish_and_repeat) {
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

TEST(recomputing_gives_the_same_bits) {
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

TEST(wrong_requests_and_tensors_are_refused) {
    const ModelConfig model = small_model();
    Batcher engine(model, small_engine(1, 64));
    CHECK_THROWS(engine.submit({1}, limit(1), nullptr), "after the weights are loaded");
    CHECK_THROWS(engine.runner().finish_load(), "tensors are missing");
    const std::vector<float> zeros(model.vocab_size * model.hidden_dim);
    CHECK_THROWS(engine.runner().load_tensor("nonsense", DType::F32, {1}, zeros.data()), "'nonsense'");
    CHECK_THROWS(engine.runner().load_tensor("norm.weight", DType::F32, {7}, zeros.data()),
                 "expected shape [72], found [7]");
    std::vector<float> bad(zeros);
    bad[72 * 3 + 5] = NAN;
    CHECK_THROWS(engine.runner().load_tensor("embed_tokens.weight", DType::F32, {131, 72}, bad.data()), "[3, 5]");
    testing::load_synthetic(engine.runner());
    CHECK_THROWS(engine.runner().load_tensor("norm.weight", DType::F32, {72}, zeros.data()), "after loading");
    CHECK_THROWS(engine.submit({}, limit(1), nullptr), "no tokens");
    CHECK_THROWS(engine.submit({131}, limit(1), nullptr), "token id 131");
    CHECK_THROWS(engine.submit(std::vector<int32_t>(65, 1), limit(1), nullptr), "65 tokens");
    CHECK_THROWS(engine.submit({1}, limit(0), nullptr), "max_new_tokens");
}

TEST(a_refusal_names_what_would_fit) {
    const ModelConfig model = small_model();
    const EngineConfig wanted = small_engine(8, 256);
    const MemoryPlan plan = make_plan(model, wanted);
    const uint64_t loading = UINT64_MAX - plan_budget(model, wanted, UINT64_MAX);
    const auto refusal = [&](uint64_t free_bytes) { require_fit(plan, model, wanted, free_bytes); };
    refusal(plan.total() + loading);  // fits
    CHECK_THROWS(refusal(plan.total() + loading - 1), "; would fit: 192 tokens at batch 8, or 256 tokens at batch 7");
    const uint64_t smallest = make_plan(model, small_engine(1, kPageTokens)).total() + loading;
    CHECK_THROWS(refusal(smallest), "; would fit: 64 tokens at batch 1");
    CHECK_THROWS(refusal(smallest - 1), "; not even one page of context fits beside the weights");
}

TEST(every_failing_allocation_leaves_nothing) {
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

TEST_MAIN()
