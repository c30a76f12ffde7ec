// What is behind the handles of the C ABI: an engine that can be closed while other threads use it, and event queues
// that outlive it.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/error.h"
#include "engine/engine.h"

namespace tinyllm {

class Session {
public:
    Session(const ModelConfig& model, const EngineConfig& config) : engine_(std::make_unique<Engine>(model, config)) {}
    ~Session() { close(); }

    // Calls body(engine) and returns its result; the engine lives until then. Throws Closed once close() was called.
    template <typename Body>
    auto use(Body&& body) {
        const Use use(*this);
        return std::forward<Body>(body)(*engine_);
    }
    // Refuses new calls, ends all requests (who waits for them gets Closed), waits for the calls that run, and gives
    // all memory back. A second call waits for the first.
    void close();
    bool closed() const;
    std::shared_ptr<EventQueue> make_queue();

private:
    struct Use {
        explicit Use(Session& session);
        ~Use();
        Session& session;
    };

    mutable std::mutex mutex_;  // guards everything below, but what the engine itself does
    std::condition_variable changed_;
    int calls_ = 0;
    bool closing_ = false;
    bool closed_ = false;
    std::unique_ptr<Engine> engine_;  // null once closed
    std::vector<std::weak_ptr<EventQueue>> queues_;
};

}  // namespace tinyllm

struct tl_engine {
    std::shared_ptr<tinyllm::Session> session;
};

struct tl_queue {
    std::shared_ptr<tinyllm::Session> session;
    std::shared_ptr<tinyllm::EventQueue> events;
};
