// What the CUDA runtime layer has done since the process started, for tests that demand "nothing on the token path".
#pragma once

#include <atomic>
#include <cstdint>

namespace tinyllm::cuda {

struct RuntimeCounters {
    std::atomic<uint64_t> allocations{0};       // device and pinned
    std::atomic<uint64_t> synchronizations{0};  // times the host waited for a stream or an event
    std::atomic<uint64_t> graph_captures{0};
    std::atomic<uint64_t> graph_launches{0};
};

inline RuntimeCounters& runtime_counters() {
    static RuntimeCounters counters;
    return counters;
}

}  // namespace tinyllm::cuda
