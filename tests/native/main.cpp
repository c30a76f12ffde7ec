#include "check.h"

int main(int argc, char** argv) { return tinyllm::test::run_tests(argc, argv); }
