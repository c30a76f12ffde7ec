#include "engine/batcher.h"

#include <algorithm>
#include <cmath>

#include "backends/registry.h"
#include "core/error.h"

namespace tinyllm {

namespace {

SequenceState state_of(const Request& request) { return {request.prompt_tokens, request.kv_len, request.max_pages}; }

std::string not_finite_message(DType dtype) {
    std::string advice = "the checkpoint's weights may be damaged";
    if (dtype == DType::F16)
        advice =
            "float16 holds numbers up to 65504 only; load the model with dtype=\"bfloat16\" (or \"float32\" on a CPU)";
    return concat("the model's logits are not finite (NaN or infinity): numbers overflowed on the way to them, in ",
                  dtype_name(dtype), " activations; ", advice);
}

}  // namespace

void fail_broken(const std::string& reason) {
    fail(TL_STATUS_CUDA, "this engine stopped working after an earlier failure; close it and load the model again. ",
         "The failure was: ", reason);
}

Batcher::Batcher(const ModelConfig& model, const EngineConfig& engine)
    : Batcher(model, engine, make_backend(engine.device_kind, engine.device_index)) {}

Batcher::Batcher(const ModelConfig& model, const EngineConfig& engine, std::unique_ptr<Backend> backend)
    : runner_(model, engine, std::move(backend)),
      pages_(engine.kv_cache.total_pages()),
      free_pages_(engine.kv_cache.total_pages()) {
    for (int32_t slot = engine.kv_cache.max_batch_size - 1; slot >= 0; --slot) free_slots_.push_back(slot);
    running_.reserve(engine.kv_cache.max_batch_size);
    events_.reserve(size_t{2} * engine.kv_cache.max_batch_size);
}

std::unique_ptr<Request> Batcher::make_request(std::vector<int32_t> prompt, GenerationParams params,
                                               float* prompt_logits) const {
    const KVCacheConfig& kv = runner_.config().kv_cache;
    if (!runner_.loaded()) fail(TL_STATUS_INVALID_ARGUMENT, "requests are accepted only after the weights are loaded");
    if (prompt.empty()) fail(TL_STATUS_INVALID_ARGUMENT, "the prompt has no tokens; give at least one");
    const auto size = static_cast<int64_t>(prompt.size());
    if (size > kv.max_seq_len)
        fail(TL_STATUS_INVALID_ARGUMENT, "the prompt has ", size, " tokens but the context holds ", kv.max_seq_len,
             "; shorten the prompt or load with a larger max_seq_len");
    if (params.max_new_tokens == 0 && prompt_logits == nullptr)
        fail(TL_STATUS_INVALID_ARGUMENT, "max_new_tokens = 0; expected at least 1");
    const int32_t vocab_size = runner_.model_config().vocab_size;
    for (size_t i = 0; i < prompt.size(); ++i)
        if (prompt[i] < 0 || prompt[i] >= vocab_size)
            fail(TL_STATUS_INVALID_ARGUMENT, "token id ", prompt[i], " at position ", i,
                 " is outside the vocabulary of ", vocab_size);

    auto request = std::make_unique<Request>();
    request->prompt_tokens = static_cast<int32_t>(size);
    request->tokens = std::move(prompt);
    // All memory that a request will ever need is taken here, where running out of it harms nobody else.
    const int64_t length = std::min<int64_t>(size + params.max_new_tokens, kv.max_seq_len);
    request->max_pages = static_cast<int32_t>((length + kPageTokens - 1) / kPageTokens);
    request->tokens.reserve(length + 1);
    request->pages.reserve(request->max_pages);
    request->params = std::move(params);
    request->prompt_logits = prompt_logits;
    request->submitted = Request::Clock::now();
    return request;
}

void Batcher::add(std::unique_ptr<Request> request) {
    live_.emplace(request->id, request.get());
    waiting_.push_back(std::move(request));
}

uint64_t Batcher::submit(std::vector<int32_t> prompt, GenerationParams params, float* prompt_logits) {
    if (!broken_reason_.empty()) fail_broken(broken_reason_);
    std::unique_ptr<Request> request = make_request(std::move(prompt), std::move(params), prompt_logits);
    const uint64_t id = request->id = next_id_++;
    add(std::move(request));
    return id;
}

void Batcher::cancel(const std::vector<uint64_t>& ids) {
    bool any = false;
    for (const uint64_t id : ids) {
        const auto found = live_.find(id);
        if (found == live_.end()) continue;
        finish(*found->second, TL_FINISH_CANCELLED, -1, NAN);
        any = true;
    }
    if (any) drop_finished();
}

StepPlan Batcher::plan_next() {
    const EngineConfig& config = runner_.config();
    const auto free_slots = static_cast<int32_t>(free_slots_.size());
    running_states_.clear();
    waiting_states_.clear();
    for (const auto& request : running_) running_states_.push_back(state_of(*request));
    for (size_t i = 0; i < waiting_.size() && i < free_slots_.size(); ++i)
        waiting_states_.push_back(state_of(*waiting_[i]));
    return plan_step(running_states_, waiting_states_,
                     {free_slots, pages_.num_free(), runner_.shape().max_rows, config.prefill_chunk});
}

void Batcher::start_requests(int32_t count) {
    for (int32_t i = 0; i < count; ++i) {
        Request& request = *waiting_.front();
        TL_CHECK(pages_.take(request.max_pages, request.pages));
        free_pages_ = pages_.num_free();
        request.slot = free_slots_.back();
        free_slots_.pop_back();
        try {
            runner_.start(request);
        } catch (...) {
            release(request);  // it waits on, as it was
            throw;
        }
        request.queued_ms = request.elapsed_ms();
        running_.push_back(std::move(waiting_.front()));
        waiting_.pop_front();
    }
}

void Batcher::run_decode(const std::vector<int32_t>& indices) {
    if (indices.empty()) return;
    batch_.clear();
    for (const int32_t index : indices) batch_.push_back(running_[index].get());
    const std::span<const SampledToken> sampled = runner_.decode(batch_);
    for (size_t i = 0; i < batch_.size(); ++i) {
        ++batch_[i]->kv_len;
        take_sample(*batch_[i], sampled[i]);
    }
}

void Batcher::run_prefill(const std::vector<PrefillChunk>& chunks) {
    if (chunks.empty()) return;
    batch_.clear();
    for (const PrefillChunk& chunk : chunks) batch_.push_back(running_[chunk.index].get());
    const std::span<const SampledToken> sampled = runner_.prefill(batch_, chunks);
    size_t next = 0;
    for (size_t i = 0; i < batch_.size(); ++i) {
        Request& request = *batch_[i];
        request.kv_len += chunks[i].count;
        if (request.in_prefill()) continue;
        if (request.params.max_new_tokens == 0)
            finish(request, TL_FINISH_LENGTH, -1, NAN);
        else
            take_sample(request, sampled[next++]);
    }
}

bool Batcher::step(std::vector<Event>& events) {
    if (!broken_reason_.empty()) fail_broken(broken_reason_);
    try {
        const StepPlan plan = plan_next();
        start_requests(plan.num_started);
        run_decode(plan.decode);
        run_prefill(plan.prefill);
        steps_without_memory_ = 0;
    } catch (const std::exception& error) {
        // A device without room for a kernel's code changes no request: the next step tries again, and if that finds
        // no room either, with one request less. In anything else the contents of the cache are unknown, and going on
        // would give wrong tokens.
        const auto* known = dynamic_cast<const Error*>(&error);
        if (known == nullptr || known->status() != TL_STATUS_OUT_OF_MEMORY) {
            broken_reason_ = error.what();
            std::move(events_.begin(), events_.end(), std::back_inserter(events));
            events_.clear();
            throw;
        }
        if (++steps_without_memory_ > 1) give_way(known->status(), error.what());
    }
    drop_finished();
    std::move(events_.begin(), events_.end(), std::back_inserter(events));
    events_.clear();
    return !idle();
}

// The request that came last is the one to end: those before it were running well.
void Batcher::give_way(Status status, const std::string& message) {
    const auto last = std::find_if(running_.rbegin(), running_.rend(),
                                   [](const std::unique_ptr<Request>& request) { return !request->finished; });
    if (last != running_.rend())
        finish_with_error(**last, status, message);
    else if (!waiting_.empty())
        finish_with_error(*waiting_.front(), status, message);
}

void Batcher::fail_all(Status status, const std::string& message, std::vector<Event>& events) {
    for (const auto& request : running_) finish_with_error(*request, status, message);
    for (const auto& request : waiting_) finish_with_error(*request, status, message);
    drop_finished();
    std::move(events_.begin(), events_.end(), std::back_inserter(events));
    events_.clear();
}

void Batcher::take_sample(Request& request, const SampledToken& sampled) {
    if (sampled.token_id == kNoToken) {
        finish_with_error(request, TL_STATUS_NOT_FINITE, not_finite_message(runner_.model_config().dtype));
        return;
    }
    const auto& stops = request.params.stop_token_ids;
    request.tokens.push_back(sampled.token_id);
    if (request.ttft_ms == 0) request.ttft_ms = request.elapsed_ms();
    tl_finish_reason reason = TL_FINISH_NONE;
    if (std::find(stops.begin(), stops.end(), sampled.token_id) != stops.end())
        reason = TL_FINISH_STOP;
    else if (request.generated() >= request.params.max_new_tokens ||
             request.kv_len >= runner_.config().kv_cache.max_seq_len)
        reason = TL_FINISH_LENGTH;
    if (reason == TL_FINISH_NONE)
        emit(request, reason, sampled.token_id, sampled.logprob);
    else
        finish(request, reason, sampled.token_id, sampled.logprob);
}

void Batcher::emit(const Request& request, tl_finish_reason reason, int32_t token_id, float logprob) {
    events_.push_back({{request.id, token_id, logprob, reason, TL_STATUS_OK, request.prompt_tokens, request.generated(),
                        request.queued_ms, request.ttft_ms, request.elapsed_ms()},
                       request.queue,
                       {}});
}

void Batcher::finish(Request& request, tl_finish_reason reason, int32_t token_id, float logprob) {
    if (request.finished) return;
    release(request);
    request.finished = true;
    emit(request, reason, token_id, logprob);
}

void Batcher::finish_with_error(Request& request, Status status, const std::string& message) {
    if (request.finished) return;
    finish(request, TL_FINISH_ERROR, -1, NAN);
    events_.back().status = status;
    events_.back().error = message;
}

void Batcher::release(Request& request) {
    if (request.slot < 0) return;
    pages_.give_back(request.pages);
    free_pages_ = pages_.num_free();
    free_slots_.push_back(request.slot);
    request.slot = -1;
}

void Batcher::drop_finished() {
    const auto finished = [this](const std::unique_ptr<Request>& request) {
        if (request->finished) live_.erase(request->id);
        return request->finished;
    };
    std::erase_if(running_, finished);
    std::erase_if(waiting_, finished);
}

}  // namespace tinyllm
