#include "memory/allocation.h"

#include <cstdlib>

#include "core/error.h"

namespace tinyllm {

namespace {
constexpr size_t kHostAlignment = 64;
}

HostBuffer::HostBuffer(MemoryTracker& tracker, Component component, size_t bytes, std::string name,
                       std::source_location where)
    : tracker_(tracker), component_(component) {
    if (bytes == 0) return;
    tracker_.before_alloc(component, bytes, name);
    const size_t rounded = (bytes + kHostAlignment - 1) / kHostAlignment * kHostAlignment;
    data_ = rounded < bytes ? nullptr : std::aligned_alloc(kHostAlignment, rounded);
    if (data_ == nullptr)
        fail(TL_STATUS_OUT_OF_MEMORY, "out of host memory: ", bytes, " bytes for ", component_name(component), " '",
             name, "'; use a smaller context or batch, or a larger machine");
    try {
        tracker_.on_alloc(component, bytes, data_, name, where);
    } catch (...) {
        std::free(data_);
        throw;
    }
    bytes_ = bytes;
}

HostBuffer::~HostBuffer() {
    if (data_ == nullptr) return;
    tracker_.on_free(component_, bytes_, data_);
    std::free(data_);
}

}  // namespace tinyllm
