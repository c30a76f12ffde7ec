// Batcher: continuous batching. Requests come in, events come out, one step at a time.
//
// It holds the requests and the free pages, asks the scheduler what runs next, has the runner run it, and turns the
// sampled tokens into events. One thread at a time; Engine is the same for any number of threads.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "engine/page_pool.h"
#include "engine/request.h"
#include "engine/runner.h"
#include "engine/scheduler.h"

namespace tinyllm {

// Throws what every call gets once a step has failed.
[[noreturn]] void fail_broken(const std::string& reason);

class Batcher {
public:
    // Opens the device, checks that the plan fits, and allocates it.
    Batcher(const ModelConfig& model, const EngineConfig& engine);
    // The same on a device that is open already.
    Batcher(const ModelConfig& model, const EngineConfig& engine, std::unique_ptr<Backend> backend);

    // A request as add() takes it, but for its id. Callable from any thread. Throws InvalidArgument for a prompt that
    // cannot run here. See tl_queue_submit for prompt_logits.
    std::unique_ptr<Request> make_request(std::vector<int32_t> prompt, GenerationParams params,
                                          float* prompt_logits) const;
    // Queues a request whose id is new.
    void add(std::unique_ptr<Request> request);
    // make_request() and add() with the next free id, for who uses a batcher directly.
    uint64_t submit(std::vector<int32_t> prompt, GenerationParams params, float* prompt_logits = nullptr);
    // Ends requests; the next step reports it and their pages are free then. Others than live ones are passed over.
    // Takes time in proportion to the requests that wait, however many ids there are.
    void cancel(const std::vector<uint64_t>& ids);

    // Runs one step and appends what happened. True while something is left to do. A step that runs out of device
    // memory is made again; each time that it fails once more, one request ends with TL_FINISH_ERROR. Throws whatever
    // else goes wrong, with the events from before it appended; later steps throw the same.
    bool step(std::vector<Event>& events);
    bool idle() const { return running_.empty() && waiting_.empty() && events_.empty(); }
    // Ends all requests with an error.
    void fail_all(Status status, const std::string& message, std::vector<Event>& events);

    Runner& runner() { return runner_; }
    const Runner& runner() const { return runner_; }
    int32_t free_pages() const { return free_pages_; }
    int32_t total_pages() const { return runner_.config().kv_cache.total_pages(); }

private:
    StepPlan plan_next();
    void start_requests(int32_t count);
    void run_decode(const std::vector<int32_t>& indices);
    void run_prefill(const std::vector<PrefillChunk>& chunks);
    void take_sample(Request& request, const SampledToken& sampled);
    void give_way(Status status, const std::string& message);
    void emit(const Request& request, tl_finish_reason reason, int32_t token_id, float logprob);
    void finish(Request& request, tl_finish_reason reason, int32_t token_id, float logprob);
    void finish_with_error(Request& request, Status status, const std::string& message);
    void release(Request& request);
    void drop_finished();

    Runner runner_;
    PagePool pages_;
    std::atomic<int32_t> free_pages_;  // of pages_, for other threads
    std::vector<int32_t> free_slots_;
    std::deque<std::unique_ptr<Request>> waiting_;
    std::vector<std::unique_ptr<Request>> running_;  // in order of their starts
    std::unordered_map<uint64_t, Request*> live_;
    std::vector<Event> events_;                                   // of the step that runs
    std::vector<SequenceState> running_states_, waiting_states_;  // what the scheduler is shown
    std::vector<Request*> batch_;                                 // what the runner is given
    uint64_t next_id_ = 1;
    int32_t steps_without_memory_ = 0;  // in a row
    std::string broken_reason_;         // "" while it works
};

}  // namespace tinyllm
