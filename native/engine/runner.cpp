#include "engine/runner.h"

#include <algorithm>

#include "core/error.h"

namespace tinyllm {

namespace {

MemoryPlan fitting_plan(const ModelConfig& model, const EngineConfig& engine, const Backend& backend) {
    MemoryPlan plan = make_plan(model, engine);
    require_fit(plan, model, engine, backend.device_memory().free_bytes);
    return plan;
}

}  // namespace

Runner::Runner(const ModelConfig& model, const EngineConfig& engine, std::unique_ptr<Backend> backend)
    : model_config_(model),
      config_(engine),
      shape_(step_shape(model, engine)),
      backend_(std::move(backend)),
      plan_(fitting_plan(model, engine, *backend_)),
      memory_(*backend_, tracker_, plan_),
      loader_(model, *backend_, tracker_, memory_),
      model_{loader_.spec(), loader_.weights(), ActivationBuffers(memory_), memory_.at("kv_cache"),
             engine.kv_cache.total_pages()},
      decode_step_(decode_capacity(engine), memory_.at("decode_step")),
      prefill_step_(prefill_capacity(engine, shape_), memory_.at("prefill_step")),
      block_table_(static_cast<int32_t*>(memory_.at("block_table"))),
      sampled_(engine.kv_cache.max_batch_size) {
    const auto scratch = std::find_if(plan_.entries.begin(), plan_.entries.end(),
                                      [](const PlanEntry& entry) { return entry.name == "scratch"; });
    backend_->bind_scratch(memory_.at("scratch"), scratch->bytes);
}

Runner::~Runner() {
    // Nothing may still run on memory that is about to go. A failure here was reported where it happened.
    try {
        backend_->synchronize();
    } catch (const Error&) {
    }
}

void Runner::load_tensor(const std::string& name, DType dtype, const std::vector<int64_t>& shape, const void* data) {
    if (loaded_) fail(TL_STATUS_INVALID_ARGUMENT, "tensor '", name, "' came after loading was finished");
    loader_.load(name, dtype, shape, data);
}

void Runner::finish_load() {
    loader_.finish();
    loaded_ = true;
}

void Runner::fill_random(uint64_t seed) {
    loader_.fill_random(seed);
    loaded_ = true;
}

void Runner::start(const Request& request) {
    backend_->upload(block_table_ + static_cast<int64_t>(request.slot) * config_.kv_cache.pages_per_seq(),
                     request.pages.data(), request.pages.size() * sizeof(int32_t));
    if (!request.params.sampling.uses_penalty()) return;
    const int64_t words = (model_config_.vocab_size + 31) / 32;
    backend_->fill_zero(model_.buffers.seen + request.slot * words, words * sizeof(uint32_t));
}

void Runner::BatchNeeds::add(const SamplingSettings& sampling, int32_t kv_len, bool samples) {
    max_kv_len = std::max(max_kv_len, kv_len);
    greedy = greedy && (!samples || sampling.is_plain_greedy());
    penalty = penalty || sampling.uses_penalty();
}

StepBatch Runner::BatchNeeds::common(Phase phase, DType dtype) const {
    StepBatch batch;
    batch.phase = phase;
    batch.dtype = dtype;
    batch.max_kv_len = max_kv_len;
    batch.greedy = greedy;
    return batch;
}

std::span<const SampledToken> Runner::decode(std::span<Request* const> requests) {
    BatchNeeds needs;
    decode_step_.clear();
    for (const Request* request : requests) {
        const int32_t position = request->kv_len;
        decode_step_.push_segment();
        decode_step_.push_row(
            {request->tokens.back(), position, request->slot, std::max(request->prompt_tokens, position + 1)},
            shape_.tile_rows);
        decode_step_.push_sample(request->sample_params());
        needs.add(request->params.sampling, position + 1, true);
    }
    return run(decode_step_, needs.common(Phase::Decode, model_config_.dtype), needs.penalty);
}

std::span<const SampledToken> Runner::prefill(std::span<Request* const> requests,
                                              std::span<const PrefillChunk> chunks) {
    BatchNeeds needs;
    std::vector<PromptLogits> wanted;
    prefill_step_.clear();
    for (size_t i = 0; i < requests.size(); ++i) {
        const Request& request = *requests[i];
        const PrefillChunk& chunk = chunks[i];
        if (request.prompt_logits != nullptr)
            wanted.push_back({prefill_step_.num_rows(), chunk.count,
                              request.prompt_logits + static_cast<int64_t>(chunk.first) * model_config_.vocab_size});
        prefill_step_.push_segment();
        const int32_t end = chunk.first + chunk.count;
        for (int32_t position = chunk.first; position < end; ++position)
            prefill_step_.push_row({request.tokens[position], position, request.slot, request.prompt_tokens},
                                   shape_.tile_rows);
        const bool samples = end == request.prompt_tokens && request.params.max_new_tokens > 0;
        if (samples) prefill_step_.push_sample(request.sample_params());
        needs.add(request.params.sampling, end, samples);
    }
    const StepBatch common = needs.common(Phase::Prefill, model_config_.dtype);
    const std::span<const SampledToken> sampled = run(prefill_step_, common, needs.penalty);
    copy_prompt_logits(common, wanted);
    return sampled;
}

std::span<const SampledToken> Runner::run(StepBuffers& step, StepBatch common, bool uses_penalty) {
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
    const auto count = static_cast<size_t>(step.num_samples());
    if (count > 0) backend_->download(sampled_.data(), b.sampled, count * sizeof(SampledToken));
    return {sampled_.data(), count};
}

void Runner::copy_prompt_logits(const StepBatch& common, const std::vector<PromptLogits>& wanted) {
    if (wanted.empty()) return;
    const ActivationBuffers& b = model_.buffers;
    const int64_t vocab = model_config_.vocab_size;
    const int64_t row_bytes = model_config_.hidden_dim * static_cast<int64_t>(dtype_size(model_config_.dtype));
    StepBatch batch = prefill_step_.whole(common);
    batch.logits_rows = prefill_step_.ascending_rows();
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

}  // namespace tinyllm
