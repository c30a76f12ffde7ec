// MemoryPlan: every allocation of an engine, computed from the configurations, before the engine exists and for devices
// that this machine may not have. One more thing counts: the scratch of the CPU backend grows with num_threads().
//
// The engine allocates exactly these entries (PlannedMemory) and nothing else for as long as it lives, so the plan is
// what the tracker shows. docs/memory-model.md has the formulas.
#pragma once

#include <cstdint>

#include "config/engine_config.h"
#include "ops/planned_memory.h"

namespace tinyllm {

struct ModelConfig;

// Throws a Config error for a dtype that the device does not run.
MemoryPlan make_plan(const ModelConfig& model, const EngineConfig& engine);

// Largest max_seq_len (a multiple of the page) and largest max_batch_size, at most `limit`, with which the engine can
// be made and loaded in `free_bytes` (plan_budget); 0 if none can. num_pages is taken as 0.
int32_t largest_seq_len(const ModelConfig& model, EngineConfig engine, uint64_t free_bytes, int32_t limit);
int32_t largest_batch(const ModelConfig& model, EngineConfig engine, uint64_t free_bytes, int32_t limit);

// Throws OutOfMemory, with the plan by component and the largest context and batch that fit, if the engine cannot be
// made and loaded in `free_bytes`.
void require_fit(const MemoryPlan& plan, const ModelConfig& model, const EngineConfig& engine, uint64_t free_bytes);

}  // namespace tinyllm
