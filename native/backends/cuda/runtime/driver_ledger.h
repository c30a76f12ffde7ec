// What the driver takes from a GPU for this process, in addition to the memory that engines allocate.
//
// Nothing tells what a context, a kernel's code or a graph takes, but the driver's count of free bytes does: it is read
// before and after. It moves in steps of 2 MB, which is how finely everything here is known, and other processes move
// it too.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "backends/cuda/runtime/code_reserve.h"
#include "ops/backend.h"

namespace tinyllm::cuda {

class MemoryPool;

enum class DriverUse {
    Modules,  // code of the kernels used so far (CUDA loads each at its first launch), streams, events
    Graphs,   // captured steps
};

// Free bytes of the current device. Throws CudaError.
uint64_t free_device_bytes();

// The account of one device. Safe from any thread; what two engines do at the same time may be booked on either's use.
class DriverLedger {
public:
    // Of this process; lives as long as it. PRECOND: 0 <= device < kMaxDevices.
    static DriverLedger& of(int device);

    // To be called before anything that makes a context, making `device` current included, so that it is known what was
    // free then, and whether other code of the process has made one meanwhile.
    void before_context(int device);
    // Makes the primary context of the current device if there is none, and books what it takes. A context that other
    // code of the process made before is not ours to book: the account then begins here. PRECOND: before_context().
    // Throws CudaError.
    void open_context();

    void book(DriverUse use, int64_t bytes) { uses_[static_cast<int>(use)] += bytes; }
    // The first pool takes the device's CodeReserve, the last one gives it back. PRECOND: the pool's device is current.
    void add(const MemoryPool& pool, int device);
    void remove(const MemoryPool& pool, int device) noexcept;

    // Gives the reserve to the driver until as many calls of take_reserve_back have come.
    void lend_reserve() noexcept;
    void take_reserve_back(int device) noexcept;
    uint64_t reserve_bytes() const noexcept;

    // As the engine with `pool` sees it. PRECOND: the device is current. Throws CudaError.
    DriverMemory report(const MemoryPool& pool) const;

private:
    mutable std::mutex mutex_;      // guards all but uses_
    bool noted_ = false;            // free_before_ was asked for
    bool foreign_context_ = false;  // at the last before_context()
    bool open_ = false;
    std::optional<uint64_t> free_before_;  // before the context; since open_: where the account begins
    int64_t context_ = 0;
    std::vector<const MemoryPool*> pools_;
    CodeReserve reserve_;
    int loans_ = 0;
    std::array<std::atomic<int64_t>, 2> uses_{};
};

// Books what the driver's free count loses while it lives, less what `pool` (null: none is used meanwhile) takes, and
// for DriverUse::Modules lends the driver the reserve. Books nothing where the driver does not answer.
class DriverMeter {
public:
    // On the current device, `device`.
    DriverMeter(int device, DriverUse use, const MemoryPool* pool = nullptr) noexcept;
    ~DriverMeter();
    DriverMeter(const DriverMeter&) = delete;
    DriverMeter& operator=(const DriverMeter&) = delete;

private:
    // Bytes that are free, in the pool or in the reserve; empty where the driver does not answer.
    std::optional<int64_t> unused_bytes() const noexcept;

    int device_;
    DriverUse use_;
    const MemoryPool* pool_;
    std::optional<int64_t> before_;
};

}  // namespace tinyllm::cuda
