#include "backends/cuda/runtime/driver_ledger.h"

#include <algorithm>

#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_scope.h"
#include "backends/cuda/runtime/nvml.h"
#include "backends/cuda/runtime/pool.h"
#include "backends/cuda/runtime/primary_context.h"

namespace tinyllm::cuda {

uint64_t free_device_bytes() {
    size_t free_bytes = 0, total_bytes = 0;
    TL_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
    return free_bytes;
}

DriverLedger& DriverLedger::of(int device) {
    // Never destroyed: engines that Python drops while it exits still strike their pools off.
    static auto* const ledgers = new std::array<DriverLedger, kMaxDevices>;
    TL_CHECK(device >= 0 && device < kMaxDevices);
    return (*ledgers)[device];
}

void DriverLedger::before_context(int device) {
    const std::lock_guard lock(mutex_);
    if (open_) return;
    foreign_context_ = PrimaryContext::exists(device);
    if (noted_) return;
    noted_ = true;
    if (!foreign_context_) free_before_ = nvml_free_bytes(device);
}

void DriverLedger::open_context() {
    const std::lock_guard lock(mutex_);
    if (open_) return;
    TL_CUDA_CHECK(cudaFree(nullptr));  // CUDA's way of asking for the context
    const uint64_t free_now = free_device_bytes();
    if (!foreign_context_ && free_before_)
        context_ = static_cast<int64_t>(*free_before_) - static_cast<int64_t>(free_now);
    else
        free_before_ = free_now;
    open_ = true;
}

void DriverLedger::add(const MemoryPool& pool, int device) {
    const std::lock_guard lock(mutex_);
    pools_.push_back(&pool);
    if (loans_ == 0) reserve_.take(device);
}

void DriverLedger::remove(const MemoryPool& pool, int device) noexcept {
    const std::lock_guard lock(mutex_);
    std::erase(pools_, &pool);
    if (pools_.empty() && device_accepts_calls(device)) reserve_.give();
}

void DriverLedger::lend_reserve() noexcept {
    const std::lock_guard lock(mutex_);
    ++loans_;
    reserve_.give();
}

void DriverLedger::take_reserve_back(int device) noexcept {
    const std::lock_guard lock(mutex_);
    if (--loans_ == 0 && !pools_.empty()) reserve_.take(device);
}

uint64_t DriverLedger::reserve_bytes() const noexcept {
    const std::lock_guard lock(mutex_);
    return reserve_.bytes();
}

DriverMemory DriverLedger::report(const MemoryPool& pool) const {
    const std::lock_guard lock(mutex_);
    DriverMemory memory;
    if (!open_) return memory;
    const auto reserved = static_cast<int64_t>(pool.reserved_bytes());
    memory.lost = static_cast<int64_t>(*free_before_) - static_cast<int64_t>(free_device_bytes());
    memory.context = context_;
    memory.modules = uses_[static_cast<int>(DriverUse::Modules)];
    memory.graphs = uses_[static_cast<int>(DriverUse::Graphs)];
    memory.reserve = static_cast<int64_t>(reserve_.bytes());
    memory.pool = reserved - static_cast<int64_t>(pool.used_bytes());
    for (const MemoryPool* other : pools_)
        if (other != &pool) memory.other_engines += static_cast<int64_t>(other->reserved_bytes());
    memory.unexplained = memory.lost - memory.context - memory.modules - memory.reserve - memory.graphs - reserved -
                         memory.other_engines;
    return memory;
}

DriverMeter::DriverMeter(int device, DriverUse use, const MemoryPool* pool) noexcept
    : device_(device), use_(use), pool_(pool), before_(unused_bytes()) {
    if (use_ == DriverUse::Modules) DriverLedger::of(device_).lend_reserve();
}

DriverMeter::~DriverMeter() {
    DriverLedger& ledger = DriverLedger::of(device_);
    if (use_ == DriverUse::Modules) ledger.take_reserve_back(device_);
    const std::optional<int64_t> after = unused_bytes();
    if (before_ && after) ledger.book(use_, *before_ - *after);
}

std::optional<int64_t> DriverMeter::unused_bytes() const noexcept {
    try {
        return static_cast<int64_t>(free_device_bytes() + DriverLedger::of(device_).reserve_bytes() +
                                    (pool_ == nullptr ? 0 : pool_->reserved_bytes()));
    } catch (const Error&) {
        return {};  // whoever the failing device matters to finds out at the next call
    }
}

}  // namespace tinyllm::cuda
