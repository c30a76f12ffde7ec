// Scratch: memory that a kernel launcher may use between its first and its last launch.
#pragma once

#include <cstdint>

namespace tinyllm::cuda {

// Counters that lie in front of the scratch bytes: enough for one per tile of the largest launch that needs them.
constexpr int64_t kScratchCounters = 16384;
constexpr int64_t kCounterBytes = kScratchCounters * static_cast<int64_t>(sizeof(uint32_t));
constexpr int64_t kScratchAlign = 256;

// Every op of a step gets the same block, so nothing in it survives an op, with one exception: `counters` are all zero
// when a launcher is called and must be all zero when its last kernel ends (the last block to arrive resets its
// counter). A kernel that starts before its predecessor ends (programmatic dependent launch) may touch scratch and
// counters only after its dependency wait.
struct Scratch {
    void* data = nullptr;  // `bytes` bytes, kScratchAlign-aligned, contents undefined
    int64_t bytes = 0;
    uint32_t* counters = nullptr;  // [kScratchCounters]
};

}  // namespace tinyllm::cuda
