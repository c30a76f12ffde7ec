// CodeReserve: room on a GPU for kernels that are launched for the first time.
#pragma once

#include <cstdint>

namespace tinyllm::cuda {

// CUDA loads the code of a kernel at its first launch. Where a full device has no room for it, the launch fails, and on
// driver 580 every later launch of that kernel in the process fails too, however much memory is free by then. So some
// memory is held back and given to the driver for as long as something may be loaded. It is physical memory that is
// never mapped: nothing is stored in it, and taking and giving it does not wait for the device.
class CodeReserve {
public:
    // All kernels that a model uses take 6 MB (docs/memory-model.md).
    static constexpr uint64_t kBytes = uint64_t{8} << 20;

    CodeReserve() = default;
    ~CodeReserve() { give(); }
    CodeReserve(const CodeReserve&) = delete;
    CodeReserve& operator=(const CodeReserve&) = delete;

    // Holds kBytes of the current device, `device`, or nothing where it has not as much left.
    void take(int device) noexcept;
    void give() noexcept;
    uint64_t bytes() const noexcept { return handle_ == 0 ? 0 : kBytes; }

private:
    unsigned long long handle_ = 0;  // CUmemGenericAllocationHandle
};

}  // namespace tinyllm::cuda
