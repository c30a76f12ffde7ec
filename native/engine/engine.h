// Engine: submit and step, the one mechanism for every way to generate.
//
// A step runs one token of every decoding request, then one chunk of waiting prompts (continuous batching, chunked
// prefill). Requests are admitted in order of arrival as slots and pages allow; a request reserves the pages of its
// whole length at once, so that one that runs is never stopped for memory.
//
// Thread safety: submit and cancel may be called from any thread at any time; steps exclude each other.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/page_pool.h"
#include "engine/request.h"
#include "loading/weight_loader.h"
#include "memory/tracker.h"
#include "model/forward.h"
#include "ops/backend.h"
#include "ops/kv_cache.h"
#include "ops/step_buffers.h"
#include "planning/plan.h"

namespace tinyllm {

class Engine {
public:
    // Opens the device, checks that the plan fits, and allocates it.
    Engine(const ModelConfig& model, const EngineConfig& engine);
    // The same on a device that is open already: `backend` is of engine.device_kind.
    Engine(const ModelConfig& model, const EngineConfig& engine, std::unique_ptr<Backend> backend);
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    void load_tensor(const std::string& name, DType dtype, const std::vector<int64_t>& shape, const void* data);
    void finish_load();
    // Instead of loading, for benchmarks: made-up weights, made on the device (WeightLoader::fill_random).
    void fill_random(uint64_t seed);

    // Checks and queues a request; returns its id. See tl_engine_submit for prompt_logits.
    uint64_t submit(std::vector<int32_t> prompt, GenerationParams params, float* prompt_logits);
    void cancel(uint64_t request_id);
    // Runs one step and appends at most `capacity` events. True while something is left to do.
    bool step(std::vector<tl_event>& events, size_t capacity);
    int32_t max_events() const { return 2 * config_.kv_cache.max_batch_size + 16; }

    const ModelConfig& model_config() const { return model_config_; }
    const EngineConfig& config() const { return config_; }
    const MemoryPlan& plan() const { return plan_; }
    const MemoryTracker& tracker() const { return tracker_; }
    DeviceMemory device_memory() const { return backend_->device_memory(); }
    DriverMemory driver_memory() const { return backend_->driver_memory(); }
    int32_t free_pages() const { return free_pages_; }
    int32_t total_pages() const { return config_.kv_cache.total_pages(); }

private:
    void check_request(const std::vector<int32_t>& prompt, const GenerationParams& params, bool wants_logits) const;
    void check_working() const;
    void drain_inbox();
    void admit();
    bool try_admit(Request& request);
    void run_decode();
    void run_prefill();
    // Runs what `step` holds: forward, logits, sampling, in one captured unit where the backend can.
    void run_batch(StepBuffers& step, StepBatch common, bool uses_penalty);
    void copy_prompt_logits(const StepBuffers& step, const StepBatch& common, const std::vector<PromptLogits>& wanted);
    void take_samples(const std::vector<Request*>& requests);
    SampleParams sample_params(const Request& request) const;
    void finish(Request& request, tl_finish_reason reason, int32_t token_id, float logprob);
    void emit(const Request& request, tl_finish_reason reason, int32_t token_id, float logprob);
    void release(Request& request);

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
    PagePool pages_;

    std::mutex inbox_mutex_;  // guards the inbox and the id counter only
    std::vector<std::unique_ptr<Request>> inbox_;
    std::vector<uint64_t> cancel_inbox_;
    uint64_t next_id_ = 1;

    std::mutex step_mutex_;  // guards everything below
    std::deque<std::unique_ptr<Request>> waiting_;
    std::vector<std::unique_ptr<Request>> running_;  // in order of admission
    std::vector<int32_t> free_slots_;
    std::deque<tl_event> pending_events_;
    std::vector<SampledToken> sampled_;

    std::atomic<int32_t> free_pages_;
    std::atomic<bool> loaded_ = false;
    std::atomic<bool> broken_ = false;
    std::string broken_reason_;  // written once, before broken_
};

}  // namespace tinyllm
