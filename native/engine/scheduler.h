// Scheduler: which rows run in the next step. A pure function of counts: it knows no tokens, no device and no clock.
//
// A step runs one token of every request that generates, then one chunk of the prompts that are not done (continuous
// batching, chunked prefill). A prompt's chunk is small while others generate, so that it delays them by no more than
// that chunk, and as large as the buffers allow otherwise. Requests start strictly in order of arrival, as slots and
// pages allow: a long one at the head is not overtaken for ever by short ones.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tinyllm {

// One request, as far as scheduling goes.
struct SequenceState {
    int32_t prompt_tokens;
    int32_t kv_len;     // positions in the KV cache; below prompt_tokens: in prefill
    int32_t max_pages;  // pages that it needs at its longest, all reserved when it starts
};

struct StepBudget {
    int32_t free_slots;        // requests that may start
    int32_t free_pages;        // of the KV cache
    int32_t max_prefill_rows;  // prompt tokens of a step at most
    int32_t chunk_rows;        // the same where requests generate in that step
};

// Prompt tokens first .. first + count - 1 of a request.
struct PrefillChunk {
    int32_t index;
    int32_t first;
    int32_t count;
};

struct StepPlan {
    int32_t num_started = 0;            // the first so many of `waiting` start; they follow behind `running`
    std::vector<int32_t> decode;        // indices of requests that get one token, ascending
    std::vector<PrefillChunk> prefill;  // in ascending order of their indices, which count those started too
};

// `waiting` may be cut behind its first free_slots requests: no more can start.
StepPlan plan_step(std::span<const SequenceState> running, std::span<const SequenceState> waiting,
                   const StepBudget& budget);

}  // namespace tinyllm
