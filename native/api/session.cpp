#include "api/session.h"

namespace tinyllm {

namespace {

constexpr const char* kClosed = "this model is closed; load it again";

}  // namespace

Session::Use::Use(Session& s) : session(s) {
    std::lock_guard lock(session.mutex_);
    if (session.closing_) fail(TL_STATUS_CLOSED, kClosed);
    ++session.calls_;
}

Session::Use::~Use() {
    std::lock_guard lock(session.mutex_);
    if (--session.calls_ == 0) session.changed_.notify_all();
}

void Session::close() {
    std::unique_lock lock(mutex_);
    if (closing_) {
        changed_.wait(lock, [this] { return closed_; });
        return;
    }
    closing_ = true;
    // Before waiting for calls: one of them may wait for its requests to end.
    std::vector<std::shared_ptr<EventQueue>> queues;
    for (const std::weak_ptr<EventQueue>& known : queues_)
        if (std::shared_ptr<EventQueue> queue = known.lock()) queues.push_back(std::move(queue));
    queues_.clear();
    for (const auto& queue : queues) queue->close(TL_STATUS_CLOSED, kClosed);
    changed_.wait(lock, [this] { return calls_ == 0; });
    lock.unlock();
    engine_.reset();  // no call uses it, and none will
    for (const auto& queue : queues) queue->end();
    lock.lock();
    closed_ = true;
    changed_.notify_all();
}

bool Session::closed() const {
    std::lock_guard lock(mutex_);
    return closing_;
}

std::shared_ptr<EventQueue> Session::make_queue() {
    auto queue = std::make_shared<EventQueue>();
    std::lock_guard lock(mutex_);
    if (closing_) fail(TL_STATUS_CLOSED, kClosed);
    // Those of queues that are gone are dropped when the list would grow, so that it stays as long as it must be.
    if (queues_.size() == queues_.capacity())
        std::erase_if(queues_, [](const std::weak_ptr<EventQueue>& known) { return known.expired(); });
    queues_.push_back(queue);
    return queue;
}

}  // namespace tinyllm
