// One step of the engine: which rows run, and what becomes of the tokens.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "engine/engine.h"

namespace tinyllm {

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
