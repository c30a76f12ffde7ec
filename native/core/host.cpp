#include "core/host.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif

namespace tinyllm {

namespace {

// First whitespace-separated value of a file; nothing where the file is missing or holds no T there.
template <typename T>
std::optional<T> first_value(const std::string& path) {
    std::ifstream file(path);
    T value{};
    if (file >> value) return value;
    return std::nullopt;
}

// The value after the word `key` in a file of "key value" lines, such as /proc/meminfo.
std::optional<uint64_t> value_of(const std::string& path, const std::string& key) {
    std::ifstream file(path);
    std::string line;
    while (std::getline(file, line))
        if (line.compare(0, key.size() + 1, key + " ") == 0) return std::stoull(line.substr(key.size()));
    return std::nullopt;
}

// One control group's memory files; the names differ between the two versions of the kernel's interface.
struct MemoryFiles {
    const char *limit, *used, *inactive_file;
};
constexpr MemoryFiles kMemoryV1{"/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file"};
constexpr MemoryFiles kMemoryV2{"/memory.max", "/memory.current", "inactive_file"};

struct Cgroup {
    std::string directory;
    bool v2;
};

// Control groups that limit this process's `controller`, its own first, then its ancestors up to the mount point. A
// container may see its own group as the mount point; the directories above it in /proc/self/cgroup then do not exist
// and are skipped by whoever reads them.
std::vector<Cgroup> cgroups(const std::string& controller) {
    std::vector<Cgroup> out;
    std::ifstream file("/proc/self/cgroup");
    std::string line;  // "hierarchy:controllers:path"; version 2 has hierarchy 0 and no controllers
    while (std::getline(file, line)) {
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        std::stringstream controllers(line.substr(first + 1, second - first - 1));  // separated by commas
        const bool v2 = controllers.str().empty();
        bool named = v2;
        for (std::string name; std::getline(controllers, name, ',');) named |= name == controller;
        if (!named) continue;
        const std::string mount = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controller;
        std::string path = line.substr(second + 1);
        while (path.size() > 1) {
            out.push_back({mount + path, v2});
            path.resize(path.rfind('/'));
        }
        out.push_back({mount, v2});
    }
    return out;
}

// Processors' worth of time that the control groups grant, infinity where none sets a quota.
double cpu_quota() {
    double quota = HUGE_VAL;
    for (const Cgroup& group : cgroups("cpu")) {
        std::optional<double> time, period;  // microseconds; without a quota `time` is "max" or -1
        if (group.v2) {
            std::ifstream file(group.directory + "/cpu.max");
            double values[2];
            if (file >> values[0] >> values[1]) time = values[0], period = values[1];
        } else {
            time = first_value<double>(group.directory + "/cpu.cfs_quota_us");
            period = first_value<double>(group.directory + "/cpu.cfs_period_us");
        }
        if (time && period && *time > 0 && *period > 0) quota = std::min(quota, *time / *period);
    }
    return quota;
}

// Processors of the affinity mask that share a core list the same siblings and count once; 0 where the system does not
// say.
int cores_in_affinity_mask() {
#ifdef __linux__
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof(mask), &mask) != 0) return 0;
    std::set<std::string> cores;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &mask)) continue;
        const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
        const auto siblings = first_value<std::string>(topology + "thread_siblings_list");
        if (!siblings) return CPU_COUNT(&mask);
        cores.insert(*siblings);
    }
    return static_cast<int>(cores.size());
#else
    return 0;
#endif
}

}  // namespace

int available_cores() {
    int cores = cores_in_affinity_mask();
    if (cores == 0) cores = static_cast<int>(std::thread::hardware_concurrency());
    return std::max(1, static_cast<int>(std::min<double>(cores, std::ceil(cpu_quota()))));
}

HostMemory host_memory() {
    constexpr const char* kMeminfo = "/proc/meminfo";  // in KiB
    HostMemory memory{value_of(kMeminfo, "MemAvailable:").value_or(0) * 1024,
                      value_of(kMeminfo, "MemTotal:").value_or(0) * 1024};
    if (memory.total_bytes == 0) {  // no /proc: what is free is not known either
        memory.total_bytes =
            static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
        memory.free_bytes = memory.total_bytes;
    }
    for (const Cgroup& group : cgroups("memory")) {
        const MemoryFiles& files = group.v2 ? kMemoryV2 : kMemoryV1;
        const auto limit = first_value<uint64_t>(group.directory + files.limit);  // "max": no limit
        const auto used = first_value<uint64_t>(group.directory + files.used);
        if (!limit || !used || *limit >= memory.total_bytes) continue;
        // Cached file contents count as used but are given up on demand.
        const uint64_t cached = value_of(group.directory + "/memory.stat", files.inactive_file).value_or(0);
        const uint64_t held = *used - std::min(*used, cached);
        memory.total_bytes = *limit;
        memory.free_bytes = std::min(memory.free_bytes, *limit - std::min(*limit, held));
    }
    return memory;
}

}  // namespace tinyllm
