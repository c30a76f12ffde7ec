// Request: one prompt, its settings and its progress.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "tinyllm.h"

namespace tinyllm {

// tl_generation_config, owned and checked.
struct GenerationParams {
    int32_t max_new_tokens = 0;
    float temperature = 0;
    int32_t top_k = 0;
    float top_p = 1;
    float min_p = 0;
    float repetition_penalty = 1;
    bool logprobs = false;
    uint64_t seed = 0;
    std::vector<int32_t> stop_token_ids;

    // Throws InvalidArgument naming the field, its value and the allowed range.
    static GenerationParams from_c(const tl_generation_config& c);

    bool uses_penalty() const { return repetition_penalty != 1.0f; }
    // Nothing but the argmax is asked for.
    bool is_plain_greedy() const { return temperature == 0 && !uses_penalty() && !logprobs; }
};

struct Request {
    using Clock = std::chrono::steady_clock;

    uint64_t id = 0;
    GenerationParams params;
    std::vector<int32_t> tokens;  // prompt, then what was generated
    int32_t prompt_tokens = 0;
    float* prompt_logits = nullptr;  // [prompt_tokens, vocab_size], the caller's, or null

    int32_t slot = -1;  // while running
    std::vector<int32_t> pages;
    int32_t kv_len = 0;  // positions in the cache
    bool finished = false;

    Clock::time_point submitted;
    double queued_ms = 0;
    double ttft_ms = 0;

    bool in_prefill() const { return kv_len < prompt_tokens; }
    int32_t generated() const { return static_cast<int32_t>(tokens.size()) - prompt_tokens; }
    double elapsed_ms() const { return std::chrono::duration<double, std::milli>(Clock::now() - submitted).count(); }
};

// Prompt rows of one request in a prefill step whose logits its caller wants.
struct PromptLogits {
    int32_t first_row;  // in the step
    int32_t num_rows;
    float* target;  // [num_rows, vocab_size]
};

}  // namespace tinyllm
