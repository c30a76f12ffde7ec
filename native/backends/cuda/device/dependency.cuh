// Programmatic dependent launch (compute capability 9.0): a kernel may start while its predecessor in the stream still
// runs, and waits where it first needs the predecessor's results.
//
// Rule: every kernel that is launched with launch_overlapped() calls wait_for_predecessor() in every block before it
// reads what another kernel wrote and before it writes anything. Since each kernel then ends after its predecessor has
// ended, waiting for the direct predecessor is waiting for all of them.
#pragma once

namespace tinyllm {

// Blocks until the preceding kernel has ended and its writes are visible. Nothing on a kernel launched in plain order.
__device__ inline void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel start once every block has called this or ended. Early is good: the next kernel's own wait keeps
// the order, and its blocks take the places that this kernel's blocks leave.
__device__ inline void release_successor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace tinyllm
