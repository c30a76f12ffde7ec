// Runner: a model on one device. It owns the memory, the weights and the buffers of a step, and runs the rows that it
// is told to run. It decides nothing and keeps nothing of a request.
//
// One thread at a time; the accessors that are const may be called from any thread.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "config/engine_config.h"
#include "config/model_config.h"
#include "engine/request.h"
#include "engine/scheduler.h"
#include "loading/weight_loader.h"
#include "memory/tracker.h"
#include "model/forward.h"
#include "ops/backend.h"
#include "ops/step_buffers.h"
#include "ops/step_shape.h"
#include "planning/plan.h"

namespace tinyllm {

class Runner {
public:
    // Checks that the plan fits the device and allocates it. `backend` is of engine.device_kind.
    Runner(const ModelConfig& model, const EngineConfig& engine, std::unique_ptr<Backend> backend);
    ~Runner();
    Runner(const Runner&) = delete;
    Runner& operator=(const Runner&) = delete;

    void load_tensor(const std::string& name, DType dtype, const std::vector<int64_t>& shape, const void* data);
    void finish_load();
    // Instead of loading, for benchmarks: made-up weights, made on the device (WeightLoader::fill_random).
    void fill_random(uint64_t seed);
    bool loaded() const { return loaded_; }

    // Before the first row of a request: what the device must know of its slot and its pages.
    void start(const Request& request);
    // One token of each request (at most max_batch_size, none in prefill), through the layers and sampled. The result
    // is valid until the next call. Changes no request.
    std::span<const SampledToken> decode(std::span<Request* const> requests);
    // A chunk of each prompt; `requests` belong to `chunks` by position. The first tokens of the prompts that end in
    // their chunk are sampled, in that order, where they want tokens. Prompt logits go where the requests want them.
    std::span<const SampledToken> prefill(std::span<Request* const> requests, std::span<const PrefillChunk> chunks);

    const ModelConfig& model_config() const { return model_config_; }
    const DecoderSpec& model_spec() const { return loader_.spec(); }
    const EngineConfig& config() const { return config_; }
    const StepShape& shape() const { return shape_; }
    const MemoryPlan& plan() const { return plan_; }
    const MemoryTracker& tracker() const { return tracker_; }
    DeviceMemory device_memory() const { return backend_->device_memory(); }
    DriverMemory driver_memory() const { return backend_->driver_memory(); }

private:
    // Rows of a prefill batch whose logits their request wants.
    struct PromptLogits {
        int32_t first_row;
        int32_t num_rows;
        float* target;  // [num_rows, vocab_size]
    };
    // What the requests of a batch need together.
    struct BatchNeeds {
        int32_t max_kv_len = 0;
        bool greedy = true;
        bool penalty = false;  // also of requests that sample nothing yet: their prompts count as seen

        void add(const SamplingSettings& sampling, int32_t kv_len, bool samples);
        StepBatch common(Phase phase, DType dtype) const;
    };

    // Runs what `step` holds: forward, logits, sampling, in one captured unit where the backend can.
    std::span<const SampledToken> run(StepBuffers& step, StepBatch common, bool uses_penalty);
    void copy_prompt_logits(const StepBatch& common, const std::vector<PromptLogits>& wanted);

    const ModelConfig model_config_;
    const EngineConfig config_;
    const StepShape shape_;
    MemoryTracker tracker_;  // outlives what it tracks, the backend's staging memory included
    std::unique_ptr<Backend> backend_;
    MemoryPlan plan_;
    PlannedMemory memory_;
    WeightLoader loader_;
    Model model_;
    StepBuffers decode_step_, prefill_step_;
    int32_t* block_table_;  // [max_batch, pages_per_seq] on the device
    std::vector<SampledToken> sampled_;
    std::atomic<bool> loaded_ = false;
};

}  // namespace tinyllm
