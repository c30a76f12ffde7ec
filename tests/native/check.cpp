#define DOCTEST_CONFIG_IMPLEMENT
#include "check.h"

namespace tinyllm::test {

int run_tests(int argc, char** argv) {
    doctest::Context context;
    context.setOption("abort-after", 10);  // a kernel that is wrong is wrong in many places
    context.applyCommandLine(argc, argv);
    return context.run();
}

}  // namespace tinyllm::test
