// A C program that uses the installed library: .ci/run builds it against the wheel's files.
#include <stdio.h>
#include <tinyllm.h>

int main(void) {
    puts(tl_build_info());
    return 0;
}
