#include "engine/engine.h"

#include <pthread.h>

#include <csignal>
#include <new>
#include <set>

#include "core/error.h"

namespace tinyllm {

// Forks. The child has none of the stepping threads, and its copy of an engine may be used where the parent's had
// nothing to do. The handlers hold all engines' locks over the fork, so that both sides find them consistent.
struct ForkGuard {
    std::mutex mutex;
    std::set<Engine*> engines;

    static ForkGuard& get() {
        // Never destroyed: a fork may come late, and so may the end of an engine.
        static ForkGuard* guard = [] {
            pthread_atfork(before, after_in_parent, after_in_child);
            return new ForkGuard;
        }();
        return *guard;
    }
    static void before() {
        ForkGuard& guard = get();
        guard.mutex.lock();
        for (Engine* engine : guard.engines) engine->mutex_.lock();
    }
    static void after_in_parent() {
        ForkGuard& guard = get();
        for (Engine* engine : guard.engines) engine->mutex_.unlock();
        guard.mutex.unlock();
    }
    static void after_in_child() {
        ForkGuard& guard = get();
        for (Engine* engine : guard.engines) {
            static_cast<void>(engine->thread_.release());     // not a thread of this process: nothing to join
            new (&engine->changed_) std::condition_variable;  // the old one may count a waiter that is not here
            if (engine->stepping_) engine->broken_reason_ = "this process was forked while a step was running";
            engine->mutex_.unlock();
        }
        guard.mutex.unlock();
    }
};

Engine::Engine(const ModelConfig& model, const EngineConfig& engine) : batcher_(model, engine) {
    ForkGuard& guard = ForkGuard::get();
    std::lock_guard lock(guard.mutex);
    guard.engines.insert(this);
}

Engine::Engine(const ModelConfig& model, const EngineConfig& engine, std::unique_ptr<Backend> backend)
    : batcher_(model, engine, std::move(backend)) {
    ForkGuard& guard = ForkGuard::get();
    std::lock_guard lock(guard.mutex);
    guard.engines.insert(this);
}

Engine::~Engine() {
    {
        ForkGuard& guard = ForkGuard::get();
        std::lock_guard lock(guard.mutex);
        guard.engines.erase(this);
    }
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
        changed_.notify_all();
    }
    if (thread_ != nullptr) thread_->join();
}

void Engine::load_tensor(const std::string& name, DType dtype, const std::vector<int64_t>& shape, const void* data) {
    std::lock_guard lock(load_mutex_);
    batcher_.runner().load_tensor(name, dtype, shape, data);
}

void Engine::finish_load() {
    std::lock_guard lock(load_mutex_);
    batcher_.runner().finish_load();
}

void Engine::fill_random(uint64_t seed) {
    std::lock_guard lock(load_mutex_);
    batcher_.runner().fill_random(seed);
}

uint64_t Engine::submit(std::vector<NewRequest> requests, const std::shared_ptr<EventQueue>& queue) {
    std::vector<std::unique_ptr<Request>> made;
    made.reserve(requests.size());
    for (NewRequest& request : requests) {
        made.push_back(
            batcher_.make_request(std::move(request.prompt), std::move(request.params), request.prompt_logits));
        made.back()->queue = queue;
    }
    std::lock_guard lock(mutex_);
    if (!broken_reason_.empty()) fail_broken(broken_reason_);
    if (thread_ == nullptr) start_thread();
    inbox_.reserve(inbox_.size() + made.size());
    const uint64_t first = next_id_;
    for (auto& request : made) {
        request->id = next_id_++;
        queue->expect(request->id, request->prompt_logits != nullptr);
        inbox_.push_back(std::move(request));
    }
    changed_.notify_all();
    return first;
}

void Engine::cancel(const std::vector<uint64_t>& ids) {
    std::lock_guard lock(mutex_);
    cancelled_.insert(cancelled_.end(), ids.begin(), ids.end());
    changed_.notify_all();
}

void Engine::start_thread() {
    // Signals are for the application's threads: one that lands here would interrupt no wait of theirs.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        thread_ = std::make_unique<std::thread>([this] { run(); });
    } catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Engine::run() {
    std::vector<std::unique_ptr<Request>> added;
    std::vector<uint64_t> cancelled;
    std::vector<Event> events;
    while (true) {
        {
            std::unique_lock lock(mutex_);
            stepping_ = false;
            changed_.wait(lock, [&] { return stop_ || !inbox_.empty() || !cancelled_.empty() || !batcher_.idle(); });
            if (stop_) return;
            stepping_ = true;
            added.swap(inbox_);
            cancelled.swap(cancelled_);
        }
        step(added, cancelled, events);
        added.clear();
        cancelled.clear();
        deliver(events);
        events.clear();
    }
}

void Engine::step(std::vector<std::unique_ptr<Request>>& added, const std::vector<uint64_t>& cancelled,
                  std::vector<Event>& events) {
    try {
        for (auto& request : added) batcher_.add(std::move(request));
        batcher_.cancel(cancelled);
        batcher_.step(events);
    } catch (const std::exception& error) {
        const std::string reason = error.what();
        batcher_.fail_all(TL_STATUS_CUDA, reason, events);
        std::lock_guard lock(mutex_);
        if (broken_reason_.empty()) broken_reason_ = reason;
    }
}

// Each queue is woken when all of its events are there.
void Engine::deliver(std::vector<Event>& events) {
    std::shared_ptr<EventQueue> last;
    for (Event& event : events) {
        if (last != nullptr && last != event.queue) last->flush();
        last = event.queue;
        last->push(std::move(event));
    }
    if (last != nullptr) last->flush();
}

}  // namespace tinyllm
