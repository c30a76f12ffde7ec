#include "config/engine_config.h"

#include <algorithm>

#include "config/checks.h"
#include "core/error.h"

namespace tinyllm {

namespace {
constexpr int32_t kMaxStepTokens = 65536;
}  // namespace

EngineConfig EngineConfig::from_c(const tl_engine_config& c) {
    require_struct(c, "tl_engine_config");
    require(c.device_kind == TL_DEVICE_CPU || c.device_kind == TL_DEVICE_CUDA, "device_kind", c.device_kind,
            "CPU or CUDA");
    EngineConfig e;
    e.device_kind = static_cast<DeviceKind>(c.device_kind);
    e.device_index = c.device_index;
    e.kv_cache = {c.max_batch_size, c.max_seq_len, c.num_pages};
    e.max_step_tokens = c.max_step_tokens;
    e.prefill_chunk = c.prefill_chunk;
    return checked(e);
}

void require_activation_type(DeviceKind device, DType dtype) {
    if (device == DeviceKind::Cuda && dtype == DType::F32)
        fail(TL_STATUS_CONFIG, "dtype = float32: float32 activations run on the CPU only; use float16 or bfloat16");
}

EngineConfig checked(EngineConfig config) {
    // One chunk fills the machine: a GPU becomes compute-bound at about 1024 rows, a CPU with far fewer.
    if (config.max_step_tokens == 0) config.max_step_tokens = config.device_kind == DeviceKind::Cuda ? 2048 : 256;
    if (config.prefill_chunk == 0)
        config.prefill_chunk = std::min(config.max_step_tokens, config.device_kind == DeviceKind::Cuda ? 1024 : 64);
    config.validate();
    return config;
}

void EngineConfig::validate() const {
    require(device_index >= 0, "device_index", device_index, "0 or more");
    require_range("max_batch_size", kv_cache.max_batch_size, kMaxBatchSize);
    require_range("max_seq_len", kv_cache.max_seq_len, kMaxSeqLen);
    require(kv_cache.num_pages >= 0, "num_pages", kv_cache.num_pages, "0 (enough for all) or a positive number");
    require(kv_cache.num_pages == 0 || kv_cache.num_pages >= kv_cache.pages_per_seq(), "num_pages", kv_cache.num_pages,
            "at least the pages of one full sequence (max_seq_len / 64, rounded up)");
    require(max_step_tokens > 0 && max_step_tokens <= kMaxStepTokens, "max_step_tokens", max_step_tokens,
            "1 to 65536 (0 for the device's default)");
    require(prefill_chunk > 0 && prefill_chunk <= max_step_tokens, "prefill_chunk", prefill_chunk,
            "1 to max_step_tokens (0 for the device's default)");
}

}  // namespace tinyllm
