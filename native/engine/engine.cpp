#include "engine/engine.h"

#include <algorithm>
#include <cmath>

#include "backends/registry.h"
#include "core/error.h"

namespace tinyllm {

namespace {

MemoryPlan fitting_plan(const ModelConfig& model, const EngineConfig& engine, const Backend& backend) {
    MemoryPlan plan = make_plan(model, engine);
    require_fit(plan, model, engine, backend.device_memory().free_bytes);
    return plan;
}

}  // namespace

Engine::Engine(const ModelConfig& model, const EngineConfig& engine)
    : Engine(model, engine, make_backend(engine.device_kind, engine.device_index)) {}

Engine::Engine(const ModelConfig& model, const EngineConfig& engine, std::unique_ptr<Backend> backend)
    : model_config_(model),
      config_(engine),
      shape_(step_shape(model, engine)),
      backend_(std::move(backend)),
      plan_(fitting_plan(model, engine, *backend_)),
      memory_(*backend_, tracker_, plan_),
      loader_(model, *backend_, tracker_, memory_),
      model_{model, loader_.weights(), ActivationBuffers(memory_), memory_.at("kv_cache"),
             engine.kv_cache.total_pages()},
      decode_step_(decode_capacity(engine), memory_.at("decode_step")),
      prefill_step_(prefill_capacity(engine, shape_), memory_.at("prefill_step")),
      block_table_(static_cast<int32_t*>(memory_.at("block_table"))),
      pages_(engine.kv_cache.total_pages()),
      sampled_(engine.kv_cache.max_batch_size),
      free_pages_(engine.kv_cache.total_pages()) {
    const auto scratch = std::find_if(plan_.entries.begin(), plan_.entries.end(),
                                      [](const PlanEntry& entry) { return entry.name == "scratch"; });
    backend_->bind_scratch(memory_.at("scratch"), scratch->bytes);
    for (int32_t slot = engine.kv_cache.max_batch_size - 1; slot >= 0; --slot) free_slots_.push_back(slot);
    running_.reserve(engine.kv_cache.max_batch_size);
}

Engine::~Engine() {
    // Nothing may still run on memory that is about to go. A failure here was reported where it happened.
    try {
        backend_->synchronize();
    } catch (const Error&) {
    }
}

void Engine::load_tensor(const std::string& name, DType dtype, const std::vector<int64_t>& shape, const void* data) {
    std::lock_guard lock(step_mutex_);
    if (loaded_) fail(TL_STATUS_INVALID_ARGUMENT, "tensor '", name, "' came after loading was finished");
    loader_.load(name, dtype, shape, data);
}

void Engine::finish_load() {
    std::lock_guard lock(step_mutex_);
    loader_.finish();
    loaded_ = true;
}

void Engine::fill_random(uint64_t seed) {
    std::lock_guard lock(step_mutex_);
    loader_.fill_random(seed);
    loaded_ = true;
}

void Engine::check_working() const {
    if (broken_)
        fail(TL_STATUS_CUDA,
             "this engine stopped working after an earlier failure; close it and load the model again. ",
             "The failure was: ", broken_reason_);
}

void Engine::check_request(const std::vector<int32_t>& prompt, const GenerationParams& params,
                           bool wants_logits) const {
    if (!loaded_) fail(TL_STATUS_INVALID_ARGUMENT, "requests are accepted only after the weights are loaded");
    if (prompt.empty()) fail(TL_STATUS_INVALID_ARGUMENT, "the prompt has no tokens; give at least one");
    const auto size = static_cast<int64_t>(prompt.size());
    if (size > config_.kv_cache.max_seq_len)
        fail(TL_STATUS_INVALID_ARGUMENT, "the prompt has ", size, " tokens but the context holds ",
             config_.kv_cache.max_seq_len, "; shorten the prompt or load with a larger max_seq_len");
    if (params.max_new_tokens == 0 && !wants_logits)
        fail(TL_STATUS_INVALID_ARGUMENT, "max_new_tokens = 0; expected at least 1");
    for (size_t i = 0; i < prompt.size(); ++i)
        if (prompt[i] < 0 || prompt[i] >= model_config_.vocab_size)
            fail(TL_STATUS_INVALID_ARGUMENT, "token id ", prompt[i], " at position ", i,
                 " is outside the vocabulary of ", model_config_.vocab_size);
}

uint64_t Engine::submit(std::vector<int32_t> prompt, GenerationParams params, float* prompt_logits) {
    check_working();
    check_request(prompt, params, prompt_logits != nullptr);
    auto request = std::make_unique<Request>();
    request->prompt_tokens = static_cast<int32_t>(prompt.size());
    request->tokens = std::move(prompt);
    // All memory a request will ever need is taken here, where running out of it harms nobody else.
    const int64_t length = static_cast<int64_t>(request->prompt_tokens) + params.max_new_tokens;
    request->tokens.reserve(std::min<int64_t>(length, config_.kv_cache.max_seq_len) + 1);
    request->pages.reserve(config_.kv_cache.pages_per_seq());
    request->params = std::move(params);
    request->prompt_logits = prompt_logits;
    request->submitted = Request::Clock::now();
    std::lock_guard lock(inbox_mutex_);
    inbox_.push_back(std::move(request));
    return inbox_.back()->id = next_id_++;
}

void Engine::cancel(uint64_t request_id) {
    std::lock_guard lock(inbox_mutex_);
    cancel_inbox_.push_back(request_id);
}

void Engine::drain_inbox() {
    std::vector<uint64_t> cancelled;
    {
        std::lock_guard lock(inbox_mutex_);
        for (auto& request : inbox_) waiting_.push_back(std::move(request));
        inbox_.clear();
        cancelled.swap(cancel_inbox_);
    }
    for (const uint64_t id : cancelled) {
        for (auto& request : running_)
            if (request->id == id) finish(*request, TL_FINISH_CANCELLED, -1, NAN);
        for (auto& request : waiting_)
            if (request->id == id) finish(*request, TL_FINISH_CANCELLED, -1, NAN);
    }
    const auto finished = [](const std::unique_ptr<Request>& request) { return request->finished; };
    std::erase_if(running_, finished);
    std::erase_if(waiting_, finished);
}

bool Engine::try_admit(Request& request) {
    if (free_slots_.empty()) return false;
    const int64_t length = std::min<int64_t>(
        static_cast<int64_t>(request.prompt_tokens) + request.params.max_new_tokens, config_.kv_cache.max_seq_len);
    const auto count = static_cast<int32_t>((length + kPageTokens - 1) / kPageTokens);
    if (!pages_.take(count, request.pages)) return false;
    free_pages_ = pages_.num_free();
    request.slot = free_slots_.back();
    free_slots_.pop_back();
    try {
        backend_->upload(block_table_ + static_cast<int64_t>(request.slot) * config_.kv_cache.pages_per_seq(),
                         request.pages.data(), request.pages.size() * sizeof(int32_t));
        if (request.params.uses_penalty()) {
            const int64_t words = (model_config_.vocab_size + 31) / 32;
            backend_->fill_zero(model_.buffers.seen + request.slot * words, words * sizeof(uint32_t));
        }
    } catch (...) {
        release(request);  // it waits on, as it was
        throw;
    }
    request.queued_ms = request.elapsed_ms();
    return true;
}

void Engine::admit() {
    // Strictly in order: a long request at the head is not overtaken for ever by short ones.
    while (!waiting_.empty() && try_admit(*waiting_.front())) {
        running_.push_back(std::move(waiting_.front()));
        waiting_.pop_front();
    }
}

bool Engine::step(std::vector<tl_event>& events, size_t capacity) {
    std::lock_guard lock(step_mutex_);
    check_working();
    try {
        drain_inbox();
        // Events that found no room last time go first; running on would only pile up more.
        if (pending_events_.size() < capacity) {
            admit();
            run_decode();
            run_prefill();
            std::erase_if(running_, [](const std::unique_ptr<Request>& request) { return request->finished; });
        }
    } catch (const std::exception& error) {
        // A device without room for a kernel's code changes no request: the next step tries again.
        const auto* known = dynamic_cast<const Error*>(&error);
        if (known != nullptr && known->status() == TL_STATUS_OUT_OF_MEMORY) throw;
        // The cache's contents are unknown now. Going on would give wrong tokens.
        broken_reason_ = error.what();
        broken_ = true;
        throw;
    }
    while (!pending_events_.empty() && events.size() < capacity) {
        events.push_back(pending_events_.front());
        pending_events_.pop_front();
    }
    return !pending_events_.empty() || !running_.empty() || !waiting_.empty();
}

}  // namespace tinyllm
