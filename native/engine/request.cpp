#include "engine/request.h"

#include <cmath>

#include "core/error.h"

namespace tinyllm {

namespace {

void require(bool ok, const char* field, auto value, const char* expected) {
    if (!ok) fail(TL_STATUS_INVALID_ARGUMENT, field, " = ", value, "; expected ", expected);
}

}  // namespace

GenerationParams GenerationParams::from_c(const tl_generation_config& c) {
    if (c.struct_size != sizeof c)
        fail(TL_STATUS_INVALID_ARGUMENT, "tl_generation_config.struct_size = ", c.struct_size, ", expected ", sizeof c);
    require(c.max_new_tokens >= 0, "max_new_tokens", c.max_new_tokens, "0 or more");
    require(std::isfinite(c.temperature) && c.temperature >= 0, "temperature", c.temperature, "0 (greedy) or more");
    require(c.top_k >= 0, "top_k", c.top_k, "0 (off) or more");
    require(c.top_p > 0 && c.top_p <= 1, "top_p", c.top_p, "more than 0, at most 1 (off)");
    require(c.min_p >= 0 && c.min_p <= 1, "min_p", c.min_p, "0 (off) to 1");
    require(std::isfinite(c.repetition_penalty) && c.repetition_penalty > 0, "repetition_penalty", c.repetition_penalty,
            "more than 0 (1 is off)");
    require(c.num_stop_token_ids >= 0 && (c.num_stop_token_ids == 0 || c.stop_token_ids != nullptr),
            "num_stop_token_ids", c.num_stop_token_ids, "the length of stop_token_ids");
    return {c.max_new_tokens,
            c.temperature,
            c.top_k,
            c.top_p,
            c.min_p,
            c.repetition_penalty,
            c.logprobs != 0,
            c.seed,
            std::vector<int32_t>(c.stop_token_ids, c.stop_token_ids + c.num_stop_token_ids)};
}

}  // namespace tinyllm
