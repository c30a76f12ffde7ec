#include "engine/request.h"

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
    GenerationParams params;
#define TL_FIELD(type, name, off, condition, expected)                                                  \
    require([](type v) { return static_cast<void>(v), (condition); }(c.name), #name, c.name, expected); \
    params.sampling.name = c.name;
    TL_SAMPLING_SETTINGS(TL_FIELD)
#undef TL_FIELD
    params.sampling.logprobs = c.logprobs != 0;
    require(c.max_new_tokens >= 0, "max_new_tokens", c.max_new_tokens, "0 or more");
    params.max_new_tokens = c.max_new_tokens;
    require(c.num_stop_token_ids >= 0 && (c.num_stop_token_ids == 0 || c.stop_token_ids != nullptr),
            "num_stop_token_ids", c.num_stop_token_ids, "the length of stop_token_ids");
    params.stop_token_ids.assign(c.stop_token_ids, c.stop_token_ids + c.num_stop_token_ids);
    return params;
}

}  // namespace tinyllm
