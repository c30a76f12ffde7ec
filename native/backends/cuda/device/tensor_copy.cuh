// TMA: bulk tensor copies into shared memory and clusters (compute capability 9.0), and the mbarriers in shared memory
// on which such copies complete. Barriers at which only threads arrive work on 8.0 too.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace tinyllm::cuda {

// True in one lane of a warp whose lanes all call; the compiler then knows that a single lane goes on.
__device__ inline bool elect_lane() {
    uint32_t elected;
    asm volatile(
        "{\n\t"
        ".reg .pred one;\n\t"
        "elect.sync _|one, 0xffffffff;\n\t"
        "selp.u32 %0, 1, 0, one;\n\t"
        "}"
        : "=r"(elected));
    return elected != 0;
}

// A barrier is 8 bytes of shared memory, given by their address. A phase ends when `count` arrivals and all announced
// bytes have come; phases alternate in parity, the first has parity 0.
__device__ inline void init_barrier(uint32_t barrier, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

// Makes initialised barriers visible to TMA and to the other blocks of the cluster.
__device__ inline void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// One arrival. What this thread wrote and read before it comes before what follows a wait for the phase.
__device__ inline void arrive(uint32_t barrier) {
    asm volatile("{\n\t.reg .b64 state;\n\tmbarrier.arrive.shared.b64 state, [%0];\n\t}" ::"r"(barrier) : "memory");
}

// One arrival, and `bytes` that the phase waits for.
__device__ inline void arrive_expecting(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// One arrival at the barrier at the same place in block `rank` of the cluster, which says that this thread has read
// what it needs from shared memory. It publishes no writes to the other block: .release.cluster would, but its
// fence of all memory takes longer than a pipeline stage should.
__device__ inline void arrive_in_block(uint32_t barrier, uint32_t rank) {
    asm volatile(
        "{\n\t"
        ".reg .b32 remote;\n\t"
        "mapa.shared::cluster.u32 remote, %0, %1;\n\t"
        "mbarrier.arrive.shared::cluster.b64 _, [remote];\n\t"
        "}" ::"r"(barrier),
        "r"(rank)
        : "memory");
}

// Waits until the phase of this parity has ended.
__device__ inline void wait_for_phase(uint32_t barrier, uint32_t parity) {
    asm volatile(
        "{\n\t"
        ".reg .pred done;\n\t"
        "again:\n\t"
#if __CUDA_ARCH__ >= 900
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
#else
        "mbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n\t"
#endif
        "@!done bra again;\n\t"
        "}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// Copies the box of `map` at (column, row) to `target` and reports its bytes to `barrier`. What lies outside the tensor
// arrives as zeros.
__device__ inline void copy_box(uint32_t target, const CUtensorMap& map, int32_t column, int32_t row,
                                uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            target),
        "l"(&map), "r"(column), "r"(row), "r"(barrier)
        : "memory");
}

// Copies `bytes` contiguous bytes (a multiple of 16, both sides 16-byte aligned) and reports them to `barrier`.
__device__ inline void copy_bytes(uint32_t target, const void* source, uint32_t bytes, uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target),
        "l"(source), "r"(bytes), "r"(barrier)
        : "memory");
}

// As copy_box, to the same place in every block whose bit in `blocks` is set, reporting to each one's own barrier.
__device__ inline void copy_box_to_cluster(uint32_t target, const CUtensorMap& map, int32_t column, int32_t row,
                                           uint32_t barrier, uint16_t blocks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, "
        "{%2, "
        "%3}], [%4], %5;" ::"r"(target),
        "l"(&map), "r"(column), "r"(row), "r"(barrier), "h"(blocks)
        : "memory");
}

__device__ inline uint32_t block_rank_in_cluster() {
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// All threads of all blocks of the cluster meet.
__device__ inline void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

}  // namespace tinyllm::cuda
