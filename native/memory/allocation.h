// Allocation: RAII ownership of one tracked block of memory, whatever device it lies on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <source_location>
#include <string>

#include "memory/tracker.h"

namespace tinyllm {

// Base of HostBuffer and of the device buffers. Not copyable, not movable: held through AllocationPtr.
class Allocation {
public:
    virtual ~Allocation() = default;
    Allocation(const Allocation&) = delete;
    Allocation& operator=(const Allocation&) = delete;

    void* data() const noexcept { return data_; }
    size_t bytes() const noexcept { return bytes_; }

protected:
    Allocation() = default;
    void* data_ = nullptr;
    size_t bytes_ = 0;
};
using AllocationPtr = std::unique_ptr<Allocation>;

// Host memory, 64-byte aligned (one cache line, one AVX-512 register), contents undefined.
// Throws OutOfMemory. The tracker must outlive the buffer. A size of 0 holds no memory.
class HostBuffer final : public Allocation {
public:
    HostBuffer(MemoryTracker& tracker, Component component, size_t bytes, const std::string& name,
               std::source_location where = std::source_location::current());
    ~HostBuffer() override;

private:
    MemoryTracker& tracker_;
    Component component_;
};

// Bytes of this process's live HostBuffers that nothing has written yet. The system counts their pages as available,
// though they are spoken for: a KV cache is written page by page, as sequences grow.
uint64_t untouched_host_bytes();

}  // namespace tinyllm
