// What the machine grants this process: processor cores and memory, with the limits of containers counted in.
#pragma once

#include <cstdint>

namespace tinyllm {

// Physical cores among the processors that the process may run on (affinity mask), at most the processors' worth of
// time that its cgroup grants, at least 1. Two hardware threads of a core count once: they share its arithmetic units.
int available_cores();

struct HostMemory {
    uint64_t free_bytes = 0;   // can still be allocated without swapping; all where the system does not say
    uint64_t total_bytes = 0;  // of the machine, or the cgroup's limit where that is lower
};
HostMemory host_memory();

}  // namespace tinyllm
