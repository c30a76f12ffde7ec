// A barrier of all blocks of a grid, which must all be running (cooperative launch).
#pragma once

#include <cstdint>

namespace tinyllm {

// The last of gridDim.x arrivals turns the counter's highest bit and leaves the lower ones as they were, so a counter
// serves barrier after barrier and launch after launch without being set back. (The scheme of the grid barrier of
// CUDA's cooperative groups.)
class GridBarrier {
public:
    // One thread of a block does all that follows. No block's arrivals may be further ahead than one barrier.
    __device__ explicit GridBarrier(uint32_t* counter) : counter_(counter), turned_(load() & kTurn) {}

    // What this thread wrote, and what it has seen others of its block write, is visible past the barrier.
    __device__ void arrive() const {
        const uint32_t step = blockIdx.x == 0 ? kTurn - (gridDim.x - 1) : 1;
        asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter_), "r"(step) : "memory");
    }
    __device__ void wait() {
        turned_ ^= kTurn;
        while ((load() & kTurn) != turned_) {
        }
    }

private:
    static constexpr uint32_t kTurn = 1u << 31;

    __device__ uint32_t load() const {
        uint32_t value;
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter_) : "memory");
        return value;
    }

    uint32_t* counter_;
    uint32_t turned_;
};

}  // namespace tinyllm
