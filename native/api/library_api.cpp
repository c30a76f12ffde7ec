// The C ABI, part 1: what needs no engine. Check arguments, call, turn exceptions into status codes; no logic here.
#include "api/api_guard.h"
#include "api/convert.h"
#include "backends/registry.h"
#include "config/engine_config.h"
#include "config/model_config.h"
#include "model/decoder_spec.h"
#include "planning/overhead.h"
#include "planning/plan.h"
#include "tinyllm.h"

using namespace tinyllm;

namespace {

const char* build_info() {
    static const std::string info = [] {
        std::string text = "tinyllm " TINYLLM_VERSION ", g++ " __VERSION__ ", backends: cpu";
#ifdef TINYLLM_WITH_CUDA
        text += ", cuda (architectures " TINYLLM_CUDA_ARCHITECTURES ")";
#endif
#ifdef CUDA_MEMORY_TRACKING
        text += ", memory tracking";
#endif
        return text;
    }();
    return info.c_str();
}

}  // namespace

int32_t tl_abi_version(void) { return TL_ABI_VERSION; }
const char* tl_version(void) { return TINYLLM_VERSION; }
const char* tl_build_info(void) { return build_info(); }
const char* tl_last_error(void) { return last_error(); }

tl_status tl_device_count(int32_t* count) {
    return guarded([&] {
        require_not_null(count, "count");
        *count = static_cast<int32_t>(list_devices().size());
    });
}

tl_status tl_device_info_get(int32_t index, tl_device_info* info) {
    return guarded([&] {
        require_not_null(info, "info");
        require_struct_size("tl_device_info", info->struct_size, sizeof *info);
        const std::vector<tl_device_info> devices = list_devices();
        if (index < 0 || index >= static_cast<int32_t>(devices.size()))
            fail(TL_STATUS_INVALID_ARGUMENT, "device index ", index, " is out of range; there are ", devices.size());
        *info = devices[index];
        info->struct_size = sizeof *info;
    });
}

tl_status tl_model_tensors(const tl_model_config* model, tl_tensor_spec* entries, int32_t capacity, int32_t* count) {
    return guarded([&] {
        require_not_null(model, "model");
        write_list(checkpoint_tensors(make_decoder_spec(ModelConfig::from_c(*model))), entries, capacity, count,
                   [](const CheckpointTensor& tensor, tl_tensor_spec& out) {
                       TL_CHECK(tensor.shape.size() <= std::size(out.shape));
                       copy_text(out.name, tensor.name);
                       std::copy(tensor.shape.begin(), tensor.shape.end(), out.shape);
                       out.num_dims = static_cast<int32_t>(tensor.shape.size());
                       out.again = tensor.again;
                   });
    });
}

tl_status tl_plan(const tl_model_config* model, const tl_engine_config* engine, tl_plan_entry* entries,
                  int32_t capacity, int32_t* count) {
    return guarded([&] {
        require_not_null(model, "model");
        require_not_null(engine, "engine");
        write_plan(make_plan(ModelConfig::from_c(*model), EngineConfig::from_c(*engine)), entries, capacity, count);
    });
}

tl_status tl_plan_overhead(const tl_model_config* model, const tl_engine_config* engine, tl_overhead_entry* entries,
                           int32_t capacity, int32_t* count) {
    return guarded([&] {
        require_not_null(model, "model");
        require_not_null(engine, "engine");
        write_list(overhead(ModelConfig::from_c(*model), EngineConfig::from_c(*engine)), entries, capacity, count,
                   [](const OverheadEntry& entry, tl_overhead_entry& out) {
                       copy_text(out.name, entry.name);
                       out.on_device = entry.on_device;
                       out.only_loading = entry.only_loading;
                       out.bytes = entry.bytes;
                   });
    });
}

tl_status tl_plan_max_seq_len(const tl_model_config* model, const tl_engine_config* engine, uint64_t bytes,
                              int32_t limit, int32_t* max_seq_len) {
    return guarded([&] {
        require_not_null(model, "model");
        require_not_null(engine, "engine");
        require_not_null(max_seq_len, "max_seq_len");
        *max_seq_len = largest_seq_len(ModelConfig::from_c(*model), EngineConfig::from_c(*engine), bytes, limit);
    });
}

tl_status tl_plan_max_batch(const tl_model_config* model, const tl_engine_config* engine, uint64_t bytes, int32_t limit,
                            int32_t* max_batch) {
    return guarded([&] {
        require_not_null(model, "model");
        require_not_null(engine, "engine");
        require_not_null(max_batch, "max_batch");
        *max_batch = largest_batch(ModelConfig::from_c(*model), EngineConfig::from_c(*engine), bytes, limit);
    });
}
