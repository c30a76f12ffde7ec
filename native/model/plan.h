// MemoryPlan: every allocation of an engine, computed from the configurations alone.
//
// The engine allocates exactly these entries (PlannedMemory) and nothing else for as long as it lives, so the plan is
// what the tracker shows. Bytes are those of SPEC.md sections 1 to 3.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "memory/tracker.h"
#include "model/config.h"
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

// Row counts that size the buffers of a forward pass.
struct StepShape {
    int32_t max_rows;   // rows of one step: a prefill chunk or all decoding sequences
    int32_t tile_rows;  // rows that pass through a layer together; less than max_rows where activations are recomputed
    int32_t logits_rows;  // rows of logits that exist at a time

    int32_t max_tiles() const { return (max_rows + tile_rows - 1) / tile_rows; }
};
StepShape step_shape(const ModelConfig& model, const EngineConfig& engine);

// Throws a Config error for a dtype that the device does not run.
MemoryPlan make_plan(const ModelConfig& model, const EngineConfig& engine);

// Largest max_seq_len (a multiple of the page) and largest max_batch_size, at most `limit`, with which the engine can
// be made and loaded in `free_bytes` (plan_budget); 0 if none can. num_pages is taken as 0.
int32_t largest_seq_len(const ModelConfig& model, EngineConfig engine, uint64_t free_bytes, int32_t limit);
int32_t largest_batch(const ModelConfig& model, EngineConfig engine, uint64_t free_bytes, int32_t limit);

// Throws OutOfMemory, with the plan by component and the largest context and batch that fit, if the engine cannot be
// made and loaded in `free_bytes`.
void require_fit(const MemoryPlan& plan, const ModelConfig& model, const EngineConfig& engine, uint64_t free_bytes);

// The plan, allocated. Entries are found by name.
class PlannedMemory {
public:
    PlannedMemory(Backend& backend, MemoryTracker& tracker, const MemoryPlan& plan);
    // Null for an entry of 0 bytes. The name must be in the plan.
    void* at(const std::string& name) const;
    bool has(const std::string& name) const { return blocks_.contains(name); }

private:
    std::unordered_map<std::string, AllocationPtr> blocks_;
};

}  // namespace tinyllm
