#include "memory/allocation.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "core/error.h"

namespace tinyllm {

namespace {

constexpr size_t kHostAlignment = 64;

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kLeastMapped = SIZE_MAX;  // AddressSanitizer watches the edges of heap blocks only
#else
// From here on a block has pages of its own, which go back to the system when it is freed. The heap would keep them.
constexpr size_t kLeastMapped = 64 << 10;
#endif

// Mapped blocks of the process, start to bytes.
struct MappedBlocks {
    std::mutex mutex;
    std::map<char*, size_t> blocks;

    static MappedBlocks& all() {
        static auto* const blocks = new MappedBlocks;  // never destroyed: engines may be dropped while Python exits
        return *blocks;
    }
};

void* map_block(size_t bytes) {
    void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return nullptr;
    MappedBlocks& mapped = MappedBlocks::all();
    const std::lock_guard lock(mapped.mutex);
    mapped.blocks.emplace(static_cast<char*>(data), bytes);
    return data;
}

void unmap_block(void* data, size_t bytes) noexcept {
    MappedBlocks& mapped = MappedBlocks::all();
    const std::lock_guard lock(mapped.mutex);
    mapped.blocks.erase(static_cast<char*>(data));
    munmap(data, bytes);
}

size_t rounded_up(size_t bytes, size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

void* take(size_t bytes) {
    if (bytes > SIZE_MAX - kHostAlignment) return nullptr;
    return bytes >= kLeastMapped ? map_block(bytes)
                                 : std::aligned_alloc(kHostAlignment, rounded_up(bytes, kHostAlignment));
}

void give_back(void* data, size_t bytes) noexcept {
    if (bytes >= kLeastMapped)
        unmap_block(data, bytes);
    else
        std::free(data);
}

}  // namespace

HostBuffer::HostBuffer(MemoryTracker& tracker, Component component, size_t bytes, const std::string& name,
                       std::source_location where)
    : tracker_(tracker), component_(component) {
    if (bytes == 0) return;
    tracker_.before_alloc(component, bytes, name);
    data_ = take(bytes);
    if (data_ == nullptr)
        fail(TL_STATUS_OUT_OF_MEMORY, "out of host memory: ", bytes, " bytes for ", component_name(component), " '",
             name, "'; use a smaller context or batch, or a larger machine");
    try {
        tracker_.on_alloc(component, bytes, data_, name, where);
    } catch (...) {
        give_back(data_, bytes);
        throw;
    }
    bytes_ = bytes;
}

HostBuffer::~HostBuffer() {
    if (data_ == nullptr) return;
    tracker_.on_free(component_, bytes_, data_);
    give_back(data_, bytes_);
}

uint64_t untouched_host_bytes() {
    constexpr size_t kPagesAtATime = 1 << 16;
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> present(kPagesAtATime);
    uint64_t untouched = 0;
    MappedBlocks& mapped = MappedBlocks::all();
    const std::lock_guard lock(mapped.mutex);
    for (const auto& [start, bytes] : mapped.blocks) {
        for (size_t done = 0; done < bytes; done += kPagesAtATime * page) {
            const size_t part = std::min(bytes - done, kPagesAtATime * page), pages = (part + page - 1) / page;
            if (mincore(start + done, part, present.data()) != 0) continue;
            untouched += page * std::count_if(present.begin(), present.begin() + static_cast<ptrdiff_t>(pages),
                                              [](unsigned char flags) { return (flags & 1) == 0; });
        }
    }
    return untouched;
}

}  // namespace tinyllm
