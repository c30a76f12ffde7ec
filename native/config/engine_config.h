// EngineConfig: what an engine may use. The C struct tl_engine_config, checked.
#pragma once

#include <cstdint>

#include "config/kinds.h"
#include "config/limits.h"
#include "tinyllm.h"

namespace tinyllm {

struct KVCacheConfig {
    int32_t max_batch_size = 1;
    int32_t max_seq_len = 2048;
    int32_t num_pages = 0;  // 0: enough for every sequence at full length

    int32_t pages_per_seq() const { return (max_seq_len + kPageTokens - 1) / kPageTokens; }
    int32_t total_pages() const { return num_pages > 0 ? num_pages : max_batch_size * pages_per_seq(); }
};

struct EngineConfig {
    DeviceKind device_kind = DeviceKind::Cpu;
    int32_t device_index = 0;
    KVCacheConfig kv_cache;
    int32_t max_step_tokens = 0;  // prompt tokens of one step at most; after from_c never 0
    int32_t prefill_chunk = 0;    // the same in steps in which other requests generate; after from_c never 0

    static EngineConfig from_c(const tl_engine_config& c);
    void validate() const;
};

// `config` with the device's default for what is 0, validated.
EngineConfig checked(EngineConfig config);

}  // namespace tinyllm
