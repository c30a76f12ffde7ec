// The whole engine on the GPU: what a warm decode step may do, and what reading unwritten memory leads to.
#include <algorithm>
#include <cmath>
#include <memory>
#include <set>

#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/runtime/counters.h"
#include "backends/registry.h"
#include "cuda/cuda_test.h"
#include "engine/engine_cases.h"
#include "quantization/layout.h"
#include "testing/synthetic_model.h"

namespace tinyllm::test {

using namespace cuda;

namespace {

constexpr int32_t kMaxBatch = 16;
constexpr int32_t kRowBuckets[] = {1, 2, 4, 8, 16};  // that cuda_backend.cpp rounds up to
constexpr int32_t kContext = 256;                    // one context bucket

// Dimensions that the tensor core kernels take.
ModelConfig aligned_model() {
    ModelConfig c = small_model();
    c.hidden_dim = 256;
    c.intermediate_dim = 512;
    c.head_dim = c.rotary_dim = 64;
    return c;
}

// What has happened so far.
struct Counts {
    uint64_t allocations, tracked, waits, captures, replays;

    static Counts now(const Batcher& engine) {
        const RuntimeCounters& runtime = runtime_counters();
        return {runtime.allocations, engine.runner().tracker().total().total_count, runtime.synchronizations,
                runtime.graph_captures, runtime.graph_launches};
    }
};

uint64_t submit(Batcher& engine, int32_t prompt_tokens, const GenerationParams& params) {
    return engine.submit(
        testing::random_tokens(prompt_tokens, engine.runner().model_config().vocab_size, prompt_tokens), params,
        nullptr);
}

// Steps until every request is done and demands of each step that it allocated and captured nothing, replayed a graph
// if any request decoded, and waited once for that and once for prompts. `join(step)` may submit requests before a
// step. Returns the numbers of requests that decoded together.
template <typename Join>
std::set<size_t> check_warm_steps(Batcher& engine, Join join) {
    std::set<size_t> batches;
    std::set<uint64_t> begun;
    bool busy = true;
    for (int32_t index = 0; busy; ++index) {
        const bool joined = join(index);
        const Counts before = Counts::now(engine);
        std::vector<Event> events;
        busy = engine.step(events) || joined;
        const Counts after = Counts::now(engine);
        size_t prompts = 0;
        for (const Event& event : events) prompts += begun.insert(event.request_id).second;
        const size_t decoded = events.size() - prompts;
        CHECK(after.allocations == before.allocations);
        CHECK(after.tracked == before.tracked);
        CHECK(after.captures == before.captures);
        CHECK(after.replays - before.replays == (decoded > 0));
        CHECK(after.waits - before.waits == uint64_t{decoded > 0} + uint64_t{prompts > 0});
        batches.insert(decoded);
    }
    return batches;
}

// Whether linear_residual with zero weights leaves a zero residual stream zero, for an x that is zero or unwritten.
bool zero_weights_give_zero(bool write_x) {
    constexpr int32_t kDim = 256;
    MemoryTracker tracker;
    const std::unique_ptr<Backend> backend = cuda::make_backend(0);
    const auto allocate = [&](int64_t bytes) {
        return backend->allocate(tracker, Component::Workspace, static_cast<size_t>(bytes), "test");
    };
    const int64_t needed = scratch_bytes(DeviceKind::Cuda, {{{kDim, kDim}}, {}, 0}, {1, kContext, 0});
    const LinearLayout layout = linear_layout(DeviceKind::Cuda, QuantizationType::W8A16, DType::F16, kDim, kDim, 128);
    const AllocationPtr scratch = allocate(needed), data = allocate(layout.weight_bytes()),
                        scales = allocate(layout.scale_bytes()), x = allocate(kDim * 2), hidden = allocate(kDim * 2);
    backend->bind_scratch(scratch->data(), scratch->bytes());
    for (const AllocationPtr* block : {&data, &scales, &hidden})
        backend->fill_zero((*block)->data(), (*block)->bytes());
    if (write_x) backend->fill_zero(x->data(), x->bytes());
    LinearWeight weight;
    weight.n = weight.k = kDim;
    weight.quantization = QuantizationType::W8A16;
    weight.group_length = 128;
    weight.dtype = DType::F16;
    weight.data = data->data();
    weight.scales = scales->data();
    StepBatch batch;
    batch.phase = Phase::Decode;
    batch.num_rows = 1;
    backend->linear_residual(batch, weight, x->data(), hidden->data());
    std::vector<uint16_t> result(kDim);
    backend->download(result.data(), hidden->data(), hidden->bytes());
    return std::all_of(result.begin(), result.end(), [](uint16_t bits) { return bits == 0; });
}

}  // namespace

TEST(warm_decode_steps_allocate_nothing_and_wait_once) {
    for (const bool greedy : {true, false}) {
        const auto params = greedy ? limit : filtered;
        Batcher engine(aligned_model(), small_engine(kMaxBatch, kContext, 128, 0, DeviceKind::Cuda));
        testing::load_synthetic(engine.runner());

        // Warm up: three decode steps a bucket; one as it is, one that captures, one that replays.
        for (const int32_t rows : kRowBuckets) {
            const Counts before = Counts::now(engine);
            for (int32_t i = 0; i < rows; ++i) submit(engine, 5, params(4));
            run(engine);
            CHECK(Counts::now(engine).captures - before.captures == 1);
            CHECK(Counts::now(engine).replays - before.replays == 2);
        }

        // One request alone, for tens of steps.
        CHECK(check_warm_steps(engine, [&](int32_t step) {
                  if (step == 0) submit(engine, 7, params(50));
                  return step == 0;
              }) == std::set<size_t>({0, 1}));

        // A batch that grows by a request a step, and shrinks as those that came last end first.
        const std::set<size_t> batches = check_warm_steps(engine, [&](int32_t step) {
            if (step < kMaxBatch) submit(engine, 3 + step, params(60 - 3 * step));
            return step < kMaxBatch;
        });
        CHECK(batches.size() == kMaxBatch + 1);  // every size, and none while the first prompt came
    }
    CHECK(MemoryTracker::live_bytes_in_process() == 0);
}

TEST(reading_unwritten_memory_shows) {
    CHECK(zero_weights_give_zero(true));
    CHECK(!zero_weights_give_zero(false));  // NaN: fresh memory is poisoned in this program
}

}  // namespace tinyllm::test

CUDA_TEST_MAIN()
