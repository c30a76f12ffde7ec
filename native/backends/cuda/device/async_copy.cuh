// cp.async (compute capability 8.0): copies from global to shared memory that bypass registers and L1 and complete in
// groups. A thread sees the bytes of its own copies after wait_for_copies(); the other threads of the block after a
// barrier on top of that.
#pragma once

#include <cstdint>

namespace tinyllm::cuda {

__device__ inline uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes, both sides 16-byte aligned. The L2 fetches the whole 128-byte line.
__device__ inline void copy_async_16(uint32_t target, const void* source) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(target), "l"(source) : "memory");
}

// As above, of which the bytes from `valid` (0..16) on are not read but become zero.
__device__ inline void copy_async_16(uint32_t target, const void* source, int valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(valid) : "memory");
}

// 4 bytes, aligned.
__device__ inline void copy_async_4(uint32_t target, const void* source) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(target), "l"(source) : "memory");
}

// Ends a group: the copies since the last call, perhaps none.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the last kPending groups have arrived.
template <int kPending>
__device__ inline void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// The same with a number that is known at run time, 0..3.
__device__ inline void wait_for_copies(int pending) {
    switch (pending) {
        case 0:
            return wait_for_copies<0>();
        case 1:
            return wait_for_copies<1>();
        case 2:
            return wait_for_copies<2>();
        default:
            return wait_for_copies<3>();
    }
}

}  // namespace tinyllm::cuda
