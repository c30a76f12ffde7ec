// MemoryPlan: a list of allocations. PlannedMemory: the same, made on a backend.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/dtype.h"
#include "memory/tracker.h"
#include "ops/backend.h"

namespace tinyllm {

struct PlanEntry {
    Component component;
    std::string name;  // unique in the plan
    DType dtype;
    std::vector<int64_t> shape;
    uint64_t bytes;
};

struct MemoryPlan {
    std::vector<PlanEntry> entries;

    uint64_t total() const;
    uint64_t component_bytes(Component component) const;
};

// The plan, allocated. Entries are found by name.
class PlannedMemory {
public:
    PlannedMemory(Backend& backend, MemoryTracker& tracker, const MemoryPlan& plan);
    // Null for an entry of 0 bytes. The name must be in the plan.
    void* at(const std::string& name) const;

private:
    std::unordered_map<std::string, AllocationPtr> blocks_;
};

}  // namespace tinyllm
