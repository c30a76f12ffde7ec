// The C ABI, part 2: engines. Check arguments, call, turn exceptions into status codes; no logic here.
#include <utility>

#include "api/api_guard.h"
#include "api/convert.h"
#include "api/session.h"
#include "tinyllm.h"

using namespace tinyllm;

namespace {

using StatsRow = std::pair<std::string, ComponentStats>;

std::vector<StatsRow> component_stats(const MemoryTracker& tracker) {
    std::vector<StatsRow> rows;
    for (int i = 0; i < kNumComponents; ++i) {
        const auto component = static_cast<Component>(i);
        rows.emplace_back(component_name(component), tracker.stats(component));
    }
    rows.emplace_back("total", tracker.total());
    return rows;
}

}  // namespace

tl_status tl_engine_create(const tl_model_config* model, const tl_engine_config* engine, tl_engine** out) {
    return guarded([&] {
        require_not_null(model, "model");
        require_not_null(engine, "engine");
        require_not_null(out, "out");
        *out = nullptr;
        *out = new tl_engine{std::make_shared<Session>(ModelConfig::from_c(*model), EngineConfig::from_c(*engine))};
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
        engine->session->use(
            [&](Engine& e) { e.load_tensor(name, static_cast<DType>(dtype), {shape, shape + num_dims}, data); });
    });
}

tl_status tl_engine_finish_load(tl_engine* engine) {
    return guarded([&] {
        require_not_null(engine, "engine");
        engine->session->use([](Engine& e) { e.finish_load(); });
    });
}

tl_status tl_engine_fill_random(tl_engine* engine, uint64_t seed) {
    return guarded([&] {
        require_not_null(engine, "engine");
        engine->session->use([&](Engine& e) { e.fill_random(seed); });
    });
}

tl_status tl_engine_close(tl_engine* engine) {
    return guarded([&] {
        require_not_null(engine, "engine");
        engine->session->close();
    });
}

int32_t tl_engine_closed(const tl_engine* engine) { return engine != nullptr && engine->session->closed(); }

void tl_engine_destroy(tl_engine** engine) {
    if (engine == nullptr) return;
    // Taken in one step, so that of two calls with the same handle one finds nothing to do.
    tl_engine* taken = __atomic_exchange_n(engine, static_cast<tl_engine*>(nullptr), __ATOMIC_ACQ_REL);
    if (taken == nullptr) return;
    static_cast<void>(guarded([&] { taken->session->close(); }));  // queues keep the session, but not the engine
    delete taken;
}

tl_status tl_engine_plan(const tl_engine* engine, tl_plan_entry* entries, int32_t capacity, int32_t* count) {
    return guarded([&] {
        require_not_null(engine, "engine");
        engine->session->use([&](Engine& e) { write_plan(e.runner().plan(), entries, capacity, count); });
    });
}

tl_status tl_engine_memory(const tl_engine* engine, tl_memory_stats* stats, int32_t capacity, int32_t* count) {
    return guarded([&] {
        require_not_null(engine, "engine");
        const auto rows = engine->session->use([](Engine& e) { return component_stats(e.runner().tracker()); });
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
        write_list(engine->session->use([](Engine& e) { return e.runner().tracker().live(); }), entries, capacity,
                   count, [](const AllocationRecord& record, tl_allocation& out) {
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
        const auto [device, driver] = engine->session->use(
            [](Engine& e) { return std::pair(e.runner().device_memory(), e.runner().driver_memory()); });
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
        engine->session->use([&](Engine& e) {
            *free_pages = e.free_pages();
            *total_pages = e.total_pages();
        });
    });
}
