// The C ABI, part 3: requests and their events. Check arguments, call, turn exceptions into status codes.
#include "api/api_guard.h"
#include "api/convert.h"
#include "api/session.h"
#include "tinyllm.h"

using namespace tinyllm;

namespace {

NewRequest request_from_c(const tl_request& c) {
    require_not_null(c.config, "config");
    if (c.num_tokens > 0) require_not_null(c.token_ids, "token_ids");
    return {
        {c.token_ids, c.token_ids + std::max(c.num_tokens, 0)}, GenerationParams::from_c(*c.config), c.prompt_logits};
}

// Ends what the queue still has. Where the engine is closed there is nothing left to end.
void cancel_all(const tl_queue& queue) {
    if (queue.session->closed()) return;
    queue.session->use([&](Engine& engine) { engine.cancel(queue.events->live()); });
}

}  // namespace

tl_status tl_queue_create(tl_engine* engine, tl_queue** out) {
    return guarded([&] {
        require_not_null(engine, "engine");
        require_not_null(out, "out");
        *out = nullptr;
        auto queue = std::make_unique<tl_queue>();
        queue->session = engine->session;
        queue->events = engine->session->make_queue();
        *out = queue.release();
    });
}

tl_status tl_queue_submit(tl_queue* queue, const tl_request* requests, int32_t num_requests, uint64_t* first_id) {
    return guarded([&] {
        require_not_null(queue, "queue");
        require_not_null(requests, "requests");
        require_not_null(first_id, "first_id");
        if (num_requests < 1) fail(TL_STATUS_INVALID_ARGUMENT, "num_requests = ", num_requests, "; expected 1 or more");
        *first_id = queue->session->use([&](Engine& engine) {
            std::vector<NewRequest> made;
            made.reserve(num_requests);
            for (int32_t i = 0; i < num_requests; ++i) made.push_back(request_from_c(requests[i]));
            return engine.submit(std::move(made), queue->events);
        });
    });
}

tl_status tl_queue_wait(tl_queue* queue, tl_event* events, int32_t capacity, int32_t timeout_ms, int32_t* count) {
    return guarded([&] {
        require_not_null(queue, "queue");
        require_not_null(events, "events");
        require_not_null(count, "count");
        *count = 0;
        if (capacity < 1) fail(TL_STATUS_INVALID_ARGUMENT, "capacity = ", capacity, "; expected 1 or more");
        *count = queue->events->wait(events, capacity, std::max(timeout_ms, 0));
    });
}

tl_status tl_queue_error(tl_queue* queue, uint64_t request_id, char* text, int32_t size) {
    return guarded([&] {
        require_not_null(queue, "queue");
        require_not_null(text, "text");
        if (size < 1) fail(TL_STATUS_INVALID_ARGUMENT, "size = ", size, "; expected 1 or more");
        const std::string message = queue->events->error_of(request_id);
        const size_t length = std::min(message.size(), static_cast<size_t>(size) - 1);
        std::memcpy(text, message.data(), length);
        text[length] = '\0';
    });
}

tl_status tl_queue_cancel(tl_queue* queue, uint64_t request_id) {
    return guarded([&] {
        require_not_null(queue, "queue");
        if (!queue->events->is_live(request_id)) return;
        queue->session->use([&](Engine& engine) { engine.cancel({request_id}); });
    });
}

tl_status tl_queue_close(tl_queue* queue) {
    return guarded([&] {
        require_not_null(queue, "queue");
        cancel_all(*queue);
        queue->events->wait_until_idle(false);
    });
}

void tl_queue_destroy(tl_queue** queue) {
    if (queue == nullptr) return;
    tl_queue* taken = __atomic_exchange_n(queue, static_cast<tl_queue*>(nullptr), __ATOMIC_ACQ_REL);
    if (taken == nullptr) return;
    static_cast<void>(
        guarded([&] { cancel_all(*taken); }));  // it fails where another thread closes the engine: the same
    taken->events->wait_until_idle(true);
    delete taken;
}
