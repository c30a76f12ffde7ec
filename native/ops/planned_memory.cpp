#include "ops/planned_memory.h"

#include "core/error.h"

namespace tinyllm {

uint64_t MemoryPlan::total() const {
    uint64_t sum = 0;
    for (const PlanEntry& entry : entries) sum += entry.bytes;
    return sum;
}

uint64_t MemoryPlan::component_bytes(Component component) const {
    uint64_t sum = 0;
    for (const PlanEntry& entry : entries)
        if (entry.component == component) sum += entry.bytes;
    return sum;
}

PlannedMemory::PlannedMemory(Backend& backend, MemoryTracker& tracker, const MemoryPlan& plan) {
    for (const PlanEntry& entry : plan.entries) {
        const bool added =
            blocks_.emplace(entry.name, backend.allocate(tracker, entry.component, entry.bytes, entry.name)).second;
        TL_CHECK(added);
    }
}

void* PlannedMemory::at(const std::string& name) const {
    const auto found = blocks_.find(name);
    TL_CHECK(found != blocks_.end());
    return found->second->data();
}

}  // namespace tinyllm
