// Whether the process is on its way out.
#pragma once

namespace tinyllm::cuda {

// From this call on, process_is_exiting() is true once exit handlers run (or the library is unloaded). Called after the
// CUDA runtime is up, so that the handler runs before the runtime's own.
void watch_process_exit();

// Destructors make no CUDA calls once this is true: an interpreter that shuts down may destroy its objects after the
// CUDA runtime is gone, and the driver takes all memory back anyway.
bool process_is_exiting() noexcept;

}  // namespace tinyllm::cuda
