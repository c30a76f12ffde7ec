#include "runtime/engine.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "ops/registry.h"

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
    backend_->upload(block_table_ + static_cast<int64_t>(request.slot) * config_.kv_cache.pages_per_seq(),
                     request.pages.data(), request.pages.size() * sizeof(int32_t));
    if (request.params.uses_penalty()) {
        const int64_t words = (model_config_.vocab_size + 31) / 32;
        backend_->fill_zero(model_.buffers.seen + request.slot * words, words * sizeof(uint32_t));
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

SampleParams Engine::sample_params(const Request& request) const {
    const GenerationParams& p = request.params;
    return {p.seed,
            static_cast<int32_t>(request.tokens.size()),
            request.slot,
            p.temperature,
            p.top_p,
            p.min_p,
            p.repetition_penalty,
            p.top_k,
            p.logprobs};
}

void Engine::run_decode() {
    std::vector<Request*> requests;
    bool greedy = true, penalty = false;
    int32_t max_kv_len = 0;
    decode_step_.clear();
    for (const auto& request : running_) {
        if (request->in_prefill()) continue;
        const int32_t position = request->kv_len;
        decode_step_.push_segment();
        decode_step_.push_row(
            {request->tokens.back(), position, request->slot, std::max(request->prompt_tokens, position + 1)},
            shape_.tile_rows);
        decode_step_.push_sample(sample_params(*request));
        greedy = greedy && request->params.is_plain_greedy();
        penalty = penalty || request->params.uses_penalty();
        max_kv_len = std::max(max_kv_len, position + 1);
        requests.push_back(request.get());
    }
    if (requests.empty()) return;
    StepBatch common;
    common.phase = Phase::Decode;
    common.dtype = model_config_.dtype;
    common.max_kv_len = max_kv_len;
    common.greedy = greedy;
    run_batch(decode_step_, common, penalty);
    for (Request* request : requests) ++request->kv_len;
    take_samples(requests);
}

void Engine::run_prefill() {
    std::vector<Request*> sampled;
    std::vector<PromptLogits> wanted;
    std::vector<std::pair<Request*, int32_t>> advanced;  // and the kv_len from before
    bool greedy = true, penalty = false;
    int32_t max_kv_len = 0;
    prefill_step_.clear();
    for (const auto& request : running_) {
        const int32_t room = shape_.max_rows - prefill_step_.num_rows();
        if (!request->in_prefill() || room == 0) continue;
        const int32_t rows = std::min(room, request->prompt_tokens - request->kv_len);
        const int32_t first_row = prefill_step_.num_rows();
        prefill_step_.push_segment();
        for (int32_t i = 0; i < rows; ++i) {
            const int32_t position = request->kv_len + i;
            prefill_step_.push_row({request->tokens[position], position, request->slot, request->prompt_tokens},
                                   shape_.tile_rows);
        }
        if (request->prompt_logits != nullptr)
            wanted.push_back(
                {first_row, rows,
                 request->prompt_logits + static_cast<int64_t>(request->kv_len) * model_config_.vocab_size});
        advanced.emplace_back(request.get(), request->kv_len);
        request->kv_len += rows;
        max_kv_len = std::max(max_kv_len, request->kv_len);
        penalty = penalty || request->params.uses_penalty();
        if (request->in_prefill()) continue;
        if (request->params.max_new_tokens == 0) {
            sampled.push_back(request.get());  // ends here, without a token
            continue;
        }
        prefill_step_.push_sample(sample_params(*request));
        greedy = greedy && request->params.is_plain_greedy();
        sampled.push_back(request.get());
    }
    if (prefill_step_.num_rows() == 0) return;
    StepBatch common;
    common.phase = Phase::Prefill;
    common.dtype = model_config_.dtype;
    common.max_kv_len = max_kv_len;
    common.greedy = greedy;
    try {
        run_batch(prefill_step_, common, penalty);
        copy_prompt_logits(prefill_step_, common, wanted);
    } catch (const Error&) {
        for (const auto& [request, kv_len] : advanced) request->kv_len = kv_len;  // so that it can run once more
        throw;
    }
    take_samples(sampled);
}

void Engine::run_batch(StepBuffers& step, StepBatch common, bool uses_penalty) {
    common.block_table = block_table_;
    common.pages_per_seq = config_.kv_cache.pages_per_seq();
    const ActivationBuffers& b = model_.buffers;
    uint32_t* seen = uses_penalty ? b.seen : nullptr;
    StepKey key{common.phase, step.num_rows(), common.max_kv_len, common.greedy, uses_penalty};
    if (common.phase == Phase::Decode) {
        key = backend_->round_up(key, config_);
        common.max_kv_len = key.max_kv_len;
        while (step.num_rows() < key.num_rows) step.push_padding();
    }
    step.upload(*backend_);
    const StepBatch whole = step.whole(common);
    backend_->run_step(key, [&] {
        forward(*backend_, model_, whole, step.tiles(common), seen);
        if (whole.num_logits == 0) return;
        backend_->logits(whole, model_.weights.norm, model_.weights.head, b.hidden, b.normed, b.logits);
        backend_->sample(whole, model_config_.vocab_size, seen, b.logits, b.sampled);
    });
    if (step.num_samples() > 0)
        backend_->download(sampled_.data(), b.sampled, step.num_samples() * sizeof(SampledToken));
}

void Engine::copy_prompt_logits(const StepBuffers& step, const StepBatch& common,
                                const std::vector<PromptLogits>& wanted) {
    if (wanted.empty()) return;
    const ActivationBuffers& b = model_.buffers;
    const int64_t vocab = model_config_.vocab_size;
    const int64_t row_bytes = model_config_.hidden_dim * static_cast<int64_t>(dtype_size(model_config_.dtype));
    StepBatch batch = step.whole(common);
    batch.logits_rows = step.ascending_rows();
    for (const PromptLogits& rows : wanted) {
        for (int32_t done = 0; done < rows.num_rows; done += shape_.logits_rows) {
            batch.num_logits = std::min(shape_.logits_rows, rows.num_rows - done);
            const char* hidden = static_cast<const char*>(b.hidden) + (rows.first_row + done) * row_bytes;
            backend_->run_step({Phase::Prefill, batch.num_logits, 0, false, false}, [&] {
                backend_->logits(batch, model_.weights.norm, model_.weights.head, hidden, b.normed, b.logits);
            });
            backend_->download(rows.target + done * vocab, b.logits, batch.num_logits * vocab * sizeof(float));
        }
    }
}

void Engine::take_samples(const std::vector<Request*>& requests) {
    size_t next = 0;
    for (Request* request : requests) {
        if (request->params.max_new_tokens == 0) {
            finish(*request, TL_FINISH_LENGTH, -1, NAN);
            continue;
        }
        const SampledToken sampled = sampled_[next++];
        request->tokens.push_back(sampled.token_id);
        if (request->ttft_ms == 0) request->ttft_ms = request->elapsed_ms();
        const auto& stops = request->params.stop_token_ids;
        if (std::find(stops.begin(), stops.end(), sampled.token_id) != stops.end())
            finish(*request, TL_FINISH_STOP, sampled.token_id, sampled.logprob);
        else if (request->generated() >= request->params.max_new_tokens ||
                 request->kv_len >= config_.kv_cache.max_seq_len)
            finish(*request, TL_FINISH_LENGTH, sampled.token_id, sampled.logprob);
        else
            emit(*request, TL_FINISH_NONE, sampled.token_id, sampled.logprob);
    }
}

void Engine::emit(const Request& request, tl_finish_reason reason, int32_t token_id, float logprob) {
    pending_events_.push_back({request.id, token_id, logprob, reason, request.prompt_tokens, request.generated(),
                               request.queued_ms, request.ttft_ms, request.elapsed_ms()});
}

void Engine::finish(Request& request, tl_finish_reason reason, int32_t token_id, float logprob) {
    if (request.finished) return;
    release(request);
    request.finished = true;
    emit(request, reason, token_id, logprob);
}

void Engine::release(Request& request) {
    if (request.slot < 0) return;
    pages_.give_back(request.pages);
    free_pages_ = pages_.num_free();
    free_slots_.push_back(request.slot);
    request.slot = -1;
}

}  // namespace tinyllm
