// Between the structs of the C ABI and the library's own.
#pragma once

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "core/error.h"
#include "ops/planned_memory.h"
#include "tinyllm.h"

namespace tinyllm {

template <typename T>
void require_not_null(const T* pointer, const char* name) {
    if (pointer == nullptr) fail(TL_STATUS_INVALID_ARGUMENT, name, " is null");
}

inline void require_struct_size(const char* name, uint64_t size, uint64_t expected) {
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

inline void write_plan(const MemoryPlan& plan, tl_plan_entry* entries, int32_t capacity, int32_t* count) {
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

}  // namespace tinyllm
