// PinnedBuffer<T>: RAII ownership of page-locked host memory, the only kind that the GPU copies from at full speed and
// without the host's help.
#pragma once

#include <cstddef>
#include <source_location>
#include <string>
#include <type_traits>

#include "memory/allocation.h"

namespace tinyllm::cuda {

// The part of PinnedBuffer that does not depend on T.
class PinnedBlock final : public Allocation {
public:
    // Throws CudaError. The tracker must outlive the block. Taking and freeing pinned memory waits for the device, so
    // neither belongs on the token path.
    PinnedBlock(MemoryTracker& tracker, Component component, size_t bytes, const std::string& name,
                const std::source_location& where);
    ~PinnedBlock() override;

private:
    MemoryTracker& tracker_;
    Component component_;
    int device_ = -1;
};

// `size` elements of T, contents undefined.
template <typename T>
class PinnedBuffer {
    static_assert(std::is_trivially_copyable_v<T>, "staged memory is copied byte by byte");

public:
    PinnedBuffer(MemoryTracker& tracker, Component component, size_t size, const std::string& name,
                 const std::source_location& where = std::source_location::current())
        : block_(std::make_unique<PinnedBlock>(tracker, component, size * sizeof(T), name, where)) {}

    T* data() const noexcept { return static_cast<T*>(block_->data()); }
    size_t size() const noexcept { return block_->bytes() / sizeof(T); }

private:
    AllocationPtr block_;  // movable, as a buffer should be
};

}  // namespace tinyllm::cuda
