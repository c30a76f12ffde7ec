// Programmatic dependent launch (compute capability 9.0): a kernel may start while its predecessor in the stream still
// runs, and waits where it first needs the predecessor's results.
//
// Rule: every thread of a kernel that is launched with launch_overlapped() calls wait_for_predecessor() before it reads
// what another kernel wrote and before it writes anything, and at least one thread of the grid calls it in any case.
// Since each kernel then ends after its predecessor has ended, waiting for the direct predecessor is waiting for all of
// them. Exempt is what was complete before the first overlapped kernel was enqueued: the weights, and the inputs of a
// step, because the step's first kernel (embed.cu) does not release its successor before its own wait.
#pragma once

namespace tinyllm::cuda {

// Blocks until the preceding kernel has ended and its writes are visible. Nothing on a kernel launched in plain order.
__device__ inline void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel start once every block has called this or ended. Call it early: the next kernel's own wait keeps
// the order, and its blocks start on the SMs as soon as blocks of this kernel leave them.
__device__ inline void release_successor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace tinyllm::cuda
