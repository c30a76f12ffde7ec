// The C ABI: check arguments, call, turn exceptions into status codes. No logic of its own.
#include <algorithm>
#include <cstring>
#include <memory>

#include "api/api_guard.h"
#include "backends/registry.h"
#include "core/error.h"
#include "engine/engine.h"
#include "planning/overhead.h"
#include "tinyllm.h"

using namespace tinyllm;

struct tl_engine {
    tl_engine(const ModelConfig& model, const EngineConfig& config) : engine(model, config) {}
    Engine engine;
};

namespace {

void require_not_null(const void* pointer, const char* name) {
    if (pointer == nullptr) fail(TL_STATUS_INVALID_ARGUMENT, name, " is null");
}

void require_struct_size(const char* name, uint64_t size, uint64_t expected) {
    if (size != expected) fail(TL_STATUS_INVALID_ARGUMENT, name, ".struct_size = ", size, ", expected ", expected);
}

// Copies text into a fixed field, cut at its size.
template <size_t N>
void copy_text(char (&target)[N], const std::string& text) {
    const size_t length = std::min(text.size(), N - 1);
    std::memcpy(target, text.data(), length);
    target[length] = '\0';
}

// Writes at most `capacity` converted items and the full count.
template <typename Item, typename Out, typename Convert>
void write_list(const std::vector<Item>& items, Out* out, int32_t capacity, int32_t* count, Convert convert) {
    require_not_null(count, "count");
    *count = static_cast<int32_t>(items.size());
    if (out == nullptr) return;
    for (int32_t i = 0; i < std::min(capacity, *count); ++i) {
        out[i] = {};
        convert(items[i], out[i]);
    }
}

void write_plan(const MemoryPlan& plan, tl_plan_entry* entries, int32_t capacity, int32_t* count) {
    write_list(plan.entries, entries, capacity, count, [](const PlanEntry& entry, tl_plan_entry& out) {
        TL_CHECK(entry.shape.size() <= std::size(out.shape));
        copy_text(out.component, component_name(entry.component));
        copy_text(out.name, entry.name);
        copy_text(out.dtype, dtype_name(entry.dtype));
        std::copy(entry.shape.begin(), entry.shape.end(), out.shape);
        out.num_dims = static_cast<int32_t>(entry.shape.size());
        out.bytes = entry.bytes;
    });
}

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

tl_status tl_engine_create(const tl_model_config* model, const tl_engine_config* engine, tl_engine** out) {
    return guarded([&] {
        require_not_null(model, "model");
        require_not_null(engine, "engine");
        require_not_null(out, "out");
        *out = nullptr;
        *out = new tl_engine(ModelConfig::from_c(*model), EngineConfig::from_c(*engine));
    });
}

tl_status tl_engine_load_tensor(tl_engine* engine, const char* name, int32_t dtype, const int64_t* shape,
                                int32_t num_dims, const void* data) {
    return guarded([&] {
        require_not_null(engine, "engine");
        require_not_null(name, "name");
        require_not_null(shape, "shape");
        require_not_null(data, "data");
        if (num_dims < 1 || num_dims > 2)
            fail(TL_STATUS_CHECKPOINT, "tensor '", name, "' has ", num_dims, " dimensions; expected 1 or 2");
        if (dtype < TL_DTYPE_F32 || dtype > TL_DTYPE_BF16)
            fail(TL_STATUS_CHECKPOINT, "tensor '", name, "' has dtype ", dtype,
                 "; expected float32, float16 or bfloat16");
        engine->engine.load_tensor(name, static_cast<DType>(dtype), {shape, shape + num_dims}, data);
    });
}

tl_status tl_engine_finish_load(tl_engine* engine) {
    return guarded([&] {
        require_not_null(engine, "engine");
        engine->engine.finish_load();
    });
}

void tl_engine_destroy(tl_engine* engine) { delete engine; }

tl_status tl_engine_submit(tl_engine* engine, const int32_t* token_ids, int32_t num_tokens,
                           const tl_generation_config* config, float* prompt_logits, uint64_t* request_id) {
    return guarded([&] {
        require_not_null(engine, "engine");
        require_not_null(config, "config");
        require_not_null(request_id, "request_id");
        if (num_tokens > 0) require_not_null(token_ids, "token_ids");
        *request_id = engine->engine.submit({token_ids, token_ids + std::max(num_tokens, 0)},
                                            GenerationParams::from_c(*config), prompt_logits);
    });
}

tl_status tl_engine_step(tl_engine* engine, tl_event* events, int32_t capacity, int32_t* count, int32_t* idle) {
    return guarded([&] {
        require_not_null(engine, "engine");
        require_not_null(events, "events");
        require_not_null(count, "count");
        require_not_null(idle, "idle");
        *count = 0;
        if (capacity < engine->engine.max_events())
            fail(TL_STATUS_INVALID_ARGUMENT, "capacity = ", capacity, "; expected at least ",
                 engine->engine.max_events());
        std::vector<tl_event> out;
        out.reserve(capacity);
        *idle = !engine->engine.step(out, capacity);
        std::copy(out.begin(), out.end(), events);
        *count = static_cast<int32_t>(out.size());
    });
}

int32_t tl_engine_max_events(const tl_engine* engine) { return engine == nullptr ? 0 : engine->engine.max_events(); }

tl_status tl_engine_cancel(tl_engine* engine, uint64_t request_id) {
    return guarded([&] {
        require_not_null(engine, "engine");
        engine->engine.cancel(request_id);
    });
}

tl_status tl_engine_plan(const tl_engine* engine, tl_plan_entry* entries, int32_t capacity, int32_t* count) {
    return guarded([&] {
        require_not_null(engine, "engine");
        write_plan(engine->engine.plan(), entries, capacity, count);
    });
}

tl_status tl_engine_memory(const tl_engine* engine, tl_memory_stats* stats, int32_t capacity, int32_t* count) {
    return guarded([&] {
        require_not_null(engine, "engine");
        const MemoryTracker& tracker = engine->engine.tracker();
        std::vector<std::pair<std::string, ComponentStats>> rows;
        for (int i = 0; i < kNumComponents; ++i) {
            const auto component = static_cast<Component>(i);
            rows.emplace_back(component_name(component), tracker.stats(component));
        }
        rows.emplace_back("total", tracker.total());
        write_list(rows, stats, capacity, count, [](const auto& row, tl_memory_stats& out) {
            copy_text(out.component, row.first);
            const ComponentStats& s = row.second;
            out.current_bytes = s.current_bytes;
            out.peak_bytes = s.peak_bytes;
            out.total_bytes = s.total_bytes;
            out.live_count = s.live_count;
            out.total_count = s.total_count;
        });
    });
}

tl_status tl_engine_allocations(const tl_engine* engine, tl_allocation* entries, int32_t capacity, int32_t* count) {
    return guarded([&] {
        require_not_null(engine, "engine");
        write_list(engine->engine.tracker().live(), entries, capacity, count,
                   [](const AllocationRecord& record, tl_allocation& out) {
                       copy_text(out.component, component_name(record.component));
                       copy_text(out.name, record.name);
                       copy_text(out.file, record.file);
                       out.line = record.line;
                       out.bytes = record.bytes;
                   });
    });
}

tl_status tl_engine_device_memory(const tl_engine* engine, tl_device_memory* memory) {
    return guarded([&] {
        require_not_null(engine, "engine");
        require_not_null(memory, "memory");
        require_struct_size("tl_device_memory", memory->struct_size, sizeof *memory);
        const DeviceMemory device = engine->engine.device_memory();
        const DriverMemory driver = engine->engine.driver_memory();
        *memory = {sizeof *memory, device.free_bytes,    device.total_bytes, driver.lost,
                   driver.context, driver.modules,       driver.reserve,     driver.graphs,
                   driver.pool,    driver.other_engines, driver.unexplained};
    });
}

tl_status tl_engine_pages(const tl_engine* engine, int32_t* free_pages, int32_t* total_pages) {
    return guarded([&] {
        require_not_null(engine, "engine");
        require_not_null(free_pages, "free_pages");
        require_not_null(total_pages, "total_pages");
        *free_pages = engine->engine.free_pages();
        *total_pages = engine->engine.total_pages();
    });
}

void tl_debug_fail_allocation(int64_t countdown) { MemoryTracker::fail_after(countdown); }
uint64_t tl_debug_live_bytes(void) { return MemoryTracker::live_bytes_in_process(); }
