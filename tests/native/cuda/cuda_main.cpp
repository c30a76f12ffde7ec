// The main function of the CUDA tests: skips, visibly, without a GPU.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "backends/cuda/runtime/device_info.h"
#include "check.h"

constexpr int kSkipped = 77;  // CTest's SKIP_RETURN_CODE

// Runs the tests with poisoned allocations on GPU 0.
int main(int argc, char** argv) {
    const std::string problem = tinyllm::cuda::cuda_device_problem(0);
    if (!problem.empty()) {
        std::printf("skipped: %s\n", problem.c_str());
        return kSkipped;
    }
    setenv("TINYLLM_CUDA_POISON", "1", 1);
    return tinyllm::test::run_tests(argc, argv);
}
