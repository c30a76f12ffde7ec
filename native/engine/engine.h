// Engine: a batcher for any number of threads. It has a thread of its own that runs steps while there is something to
// do and sleeps when there is not; callers hand in requests and wait on their event queues. No caller steps for others.
//
// Thread safety: all of it, but the destructor.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "engine/batcher.h"
#include "engine/event_queue.h"

namespace tinyllm {

// A request as it comes from a caller.
struct NewRequest {
    std::vector<int32_t> prompt;
    GenerationParams params;
    float* prompt_logits = nullptr;  // see tl_queue_submit
};

class Engine {
public:
    // Opens the device, checks that the plan fits, and allocates it.
    Engine(const ModelConfig& model, const EngineConfig& engine);
    // The same on a device that is open already.
    Engine(const ModelConfig& model, const EngineConfig& engine, std::unique_ptr<Backend> backend);
    // Ends the thread behind its step. Queues of requests that have not ended must have been closed.
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    void load_tensor(const std::string& name, DType dtype, const std::vector<int64_t>& shape, const void* data);
    void finish_load();
    void fill_random(uint64_t seed);

    // Checks all requests, then queues all of them, so that they start together; returns the id of the first, the
    // others follow. Throws, with none queued, if one is wrong.
    uint64_t submit(std::vector<NewRequest> requests, const std::shared_ptr<EventQueue>& queue);
    // Ends requests; their last events come with the next step. Others than live ones are passed over.
    void cancel(const std::vector<uint64_t>& ids);

    const Runner& runner() const { return batcher_.runner(); }
    int32_t free_pages() const { return batcher_.free_pages(); }
    int32_t total_pages() const { return batcher_.total_pages(); }

private:
    friend struct ForkGuard;

    void start_thread();  // with mutex_ held
    void run();
    void step(std::vector<std::unique_ptr<Request>>& added, const std::vector<uint64_t>& cancelled,
              std::vector<Event>& events);
    static void deliver(std::vector<Event>& events);

    Batcher batcher_;  // the stepping thread's, once it runs
    std::mutex load_mutex_;

    std::mutex mutex_;  // guards everything below
    std::condition_variable changed_;
    std::vector<std::unique_ptr<Request>> inbox_;
    std::vector<uint64_t> cancelled_;
    uint64_t next_id_ = 1;
    bool stepping_ = false;
    bool stop_ = false;
    std::string broken_reason_;            // "" while it works
    std::unique_ptr<std::thread> thread_;  // started by the first request
};

}  // namespace tinyllm
