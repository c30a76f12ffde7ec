// EventQueue: the events of a caller's requests, from the stepping thread to whoever waits for them.
//
// A caller makes one queue for as many requests as it wants to wait for together: one for a stream, one for a list of
// prompts, one for a whole server. Whoever waits gets everything that has come since, so a slow reader never holds up
// a step and catches up in one go.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "engine/request.h"

namespace tinyllm {

class EventQueue {
public:
    // Before a request is handed to an engine. `writes`: the engine will write to memory of the caller (prompt logits).
    void expect(uint64_t request_id, bool writes);
    // From the stepping thread. Wakes nobody: flush() does, once a step.
    void push(Event event);
    void flush();
    // No more events are wanted. Whoever waits, now or later, gets this error. The engine may still write to memory of
    // the caller, until end() says that it is gone.
    void close(Status status, const std::string& message);
    void end();

    // Moves at most `capacity` events to `out`. Waits up to `timeout_ms` for the first one; 0 events: none came in
    // time, or no request is left that could bring one. Throws the error that the queue was closed with.
    int32_t wait(tl_event* out, int32_t capacity, int32_t timeout_ms);
    // Message of a request that ended with TL_FINISH_ERROR; "" for others.
    std::string error_of(uint64_t request_id) const;
    // Requests that have not ended, and whether one is among them.
    std::vector<uint64_t> live() const;
    bool is_live(uint64_t request_id) const;
    // Waits until no request is left; with `only_writing` until none is left that writes to memory of the caller.
    void wait_until_idle(bool only_writing) const;

private:
    bool closed() const { return close_status_ != TL_STATUS_OK; }

    mutable std::mutex mutex_;
    mutable std::condition_variable changed_;
    std::deque<tl_event> events_;
    std::unordered_map<uint64_t, bool> live_;  // and whether the engine writes to memory of the caller for it
    size_t num_writing_ = 0;                   // of live_
    std::unordered_map<uint64_t, std::string> errors_;
    mutable int waiters_ = 0;
    Status close_status_ = TL_STATUS_OK;
    std::string close_message_;
};

}  // namespace tinyllm
