// What the native CUDA tests share: the main function that skips, visibly, without a GPU.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#include "backends/cuda/runtime/device_info.h"
#include "check.h"

namespace tinyllm::test {

using namespace cuda;

constexpr int kSkipped = 77;  // CTest's SKIP_RETURN_CODE

// Runs the tests with poisoned allocations on GPU 0.
inline int run_all_on_gpu(int argc, char** argv) {
    const std::string problem = cuda_device_problem(0);
    if (!problem.empty()) {
        std::printf("skipped: %s\n", problem.c_str());
        return kSkipped;
    }
    setenv("TINYLLM_CUDA_POISON", "1", 1);
    return run_all(argc, argv);
}

}  // namespace tinyllm::test

#define CUDA_TEST_MAIN() \
    int main(int argc, char** argv) { return ::tinyllm::test::run_all_on_gpu(argc, argv); }
