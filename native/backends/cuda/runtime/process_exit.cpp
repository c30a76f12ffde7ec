#include "backends/cuda/runtime/process_exit.h"

#include <atomic>
#include <cstdlib>

namespace tinyllm::cuda {

namespace {
std::atomic<bool> g_exiting{false};  // trivially destructible: can be read at any time
}

void watch_process_exit() {
    // A full handler table leaves the flag false, which only brings back the ordinary behaviour.
    [[maybe_unused]] static const int registered = std::atexit([] { g_exiting = true; });
}

bool process_is_exiting() noexcept { return g_exiting; }

}  // namespace tinyllm::cuda
