#include "engine/event_queue.h"

#include <algorithm>
#include <chrono>

namespace tinyllm {

void EventQueue::expect(uint64_t request_id, bool writes) {
    std::lock_guard lock(mutex_);
    if (live_.emplace(request_id, writes).second && writes) ++num_writing_;
}

void EventQueue::push(Event event) {
    std::lock_guard lock(mutex_);
    if (event.finish_reason != TL_FINISH_NONE) {
        const auto found = live_.find(event.request_id);
        if (found != live_.end()) {
            if (found->second) --num_writing_;
            live_.erase(found);
        }
        if (!event.error.empty()) errors_.emplace(event.request_id, std::move(event.error));
    }
    if (!closed()) events_.push_back(event);
}

void EventQueue::flush() {
    std::lock_guard lock(mutex_);
    if (waiters_ > 0) changed_.notify_all();
}

void EventQueue::close(Status status, const std::string& message) {
    std::lock_guard lock(mutex_);
    if (closed()) return;
    close_status_ = status;
    close_message_ = message;
    changed_.notify_all();
}

void EventQueue::end() {
    std::lock_guard lock(mutex_);
    live_.clear();
    num_writing_ = 0;
    changed_.notify_all();
}

int32_t EventQueue::wait(tl_event* out, int32_t capacity, int32_t timeout_ms) {
    std::unique_lock lock(mutex_);
    const auto ready = [this] { return closed() || !events_.empty() || live_.empty(); };
    if (!ready()) {
        ++waiters_;
        changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), ready);
        --waiters_;
    }
    if (closed()) throw Error(close_status_, close_message_);
    const auto count = std::min<size_t>(events_.size(), capacity);
    std::copy_n(events_.begin(), count, out);
    events_.erase(events_.begin(), events_.begin() + static_cast<std::ptrdiff_t>(count));
    return static_cast<int32_t>(count);
}

std::string EventQueue::error_of(uint64_t request_id) const {
    std::lock_guard lock(mutex_);
    const auto found = errors_.find(request_id);
    return found == errors_.end() ? "" : found->second;
}

std::vector<uint64_t> EventQueue::live() const {
    std::lock_guard lock(mutex_);
    std::vector<uint64_t> ids;
    ids.reserve(live_.size());
    for (const auto& [id, writes] : live_) ids.push_back(id);
    return ids;
}

bool EventQueue::is_live(uint64_t request_id) const {
    std::lock_guard lock(mutex_);
    return live_.contains(request_id);
}

void EventQueue::wait_until_idle(bool only_writing) const {
    std::unique_lock lock(mutex_);
    ++waiters_;
    changed_.wait(lock, [&] { return num_writing_ == 0 && (only_writing || closed() || live_.empty()); });
    --waiters_;
}

}  // namespace tinyllm
