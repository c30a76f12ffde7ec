// A small model with every feature, requests for it, and the loop that runs an engine until it is idle.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "engine/batcher.h"

namespace tinyllm::test {

inline ModelConfig small_model() {
    ModelConfig c;
    c.vocab_size = 131;
    c.hidden_dim = 72;
    c.intermediate_dim = 100;
    c.num_layers = 2;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.head_dim = c.rotary_dim = 18;
    c.max_seq_len = 256;
    c.qkv_bias = c.mlp_bias = c.qk_norm = true;
    c.sliding_window = 50;
    c.sliding_window_first_layer = 1;
    return c;
}

inline EngineConfig small_engine(int32_t batch, int32_t context, int32_t step_tokens = 32, int32_t pages = 0,
                                 DeviceKind device = DeviceKind::Cpu) {
    EngineConfig e;
    e.device_kind = device;
    e.kv_cache = {batch, context, pages};
    e.max_step_tokens = step_tokens;
    return checked(e);
}

// Greedy, `tokens` tokens.
inline GenerationParams limit(int32_t tokens) {
    GenerationParams params;
    params.max_new_tokens = tokens;
    return params;
}

// Sampled with every filter, `tokens` tokens.
inline GenerationParams filtered(int32_t tokens) {
    GenerationParams params = limit(tokens);
    params.sampling.temperature = 1.0f;
    params.sampling.top_k = 20;
    params.sampling.top_p = 0.9f;
    params.sampling.min_p = 0.01f;
    params.sampling.repetition_penalty = 1.3f;
    params.sampling.logprobs = true;
    params.sampling.seed = 5;
    return params;
}

// Runs until nothing is left; the tokens of each request.
inline std::map<uint64_t, std::vector<int32_t>> run(Batcher& engine) {
    std::map<uint64_t, std::vector<int32_t>> tokens;
    bool busy = true;
    while (busy) {
        std::vector<Event> events;
        busy = engine.step(events);
        for (const Event& event : events)
            if (event.token_id >= 0) tokens[event.request_id].push_back(event.token_id);
    }
    return tokens;
}

}  // namespace tinyllm::test
