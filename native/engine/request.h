// Request: one prompt, its settings and its progress.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ops/sampling_settings.h"
#include "tinyllm.h"

namespace tinyllm {

class EventQueue;

// tl_generation_config, owned and checked.
struct GenerationParams {
    SamplingSettings sampling;
    int32_t max_new_tokens = 0;
    std::vector<int32_t> stop_token_ids;

    // Throws InvalidArgument naming the field, its value and the allowed range.
    static GenerationParams from_c(const tl_generation_config& c);
};

struct Request {
    using Clock = std::chrono::steady_clock;

    uint64_t id = 0;
    GenerationParams params;
    std::vector<int32_t> tokens;  // prompt, then what was generated
    int32_t prompt_tokens = 0;
    int32_t max_pages = 0;              // pages of the KV cache that it needs at its longest
    float* prompt_logits = nullptr;     // [prompt_tokens, vocab_size], the caller's, or null
    std::shared_ptr<EventQueue> queue;  // where its events go; null: nowhere but to who steps

    int32_t slot = -1;  // while running: its row of the block table and of `seen`
    std::vector<int32_t> pages;
    int32_t kv_len = 0;  // positions in the cache
    bool finished = false;

    Clock::time_point submitted;
    double queued_ms = 0;
    double ttft_ms = 0;

    bool in_prefill() const { return kv_len < prompt_tokens; }
    int32_t generated() const { return static_cast<int32_t>(tokens.size()) - prompt_tokens; }
    double elapsed_ms() const { return std::chrono::duration<double, std::milli>(Clock::now() - submitted).count(); }
    // How its next token is chosen.
    SampleParams sample_params() const { return {params.sampling, static_cast<int32_t>(tokens.size()), slot}; }
};

// What happened to a request: a token, its end, or both.
struct Event : tl_event {
    std::shared_ptr<EventQueue> queue;  // of the request; may be null
    std::string error;                  // with TL_FINISH_ERROR
};

}  // namespace tinyllm
