// What an engine takes in addition to its plan: buffers that data passes through, most of them only while weights load,
// and the rounding of the memory pool. Computed from the configurations, for any device. What the CUDA driver takes for
// itself is not in it (ops/backend.h, DriverMemory).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tinyllm {

struct ModelConfig;
struct EngineConfig;

struct OverheadEntry {
    std::string name;
    bool on_device;     // of a GPU; else of the host
    bool only_loading;  // gone once the weights are loaded
    uint64_t bytes;     // at most
};

// Not in it: the tensor that the caller hands over, and vectors as long as a row of weights.
std::vector<OverheadEntry> overhead(const ModelConfig& model, const EngineConfig& engine);

// The largest plan, in bytes, whose engine can be made and loaded in `free_bytes` of its device; 0 if none can.
uint64_t plan_budget(const ModelConfig& model, const EngineConfig& engine, uint64_t free_bytes);

}  // namespace tinyllm
