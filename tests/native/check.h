// A test framework that fits on a page.
//
//   TEST(name) { CHECK(condition); CHECK_CLOSE(actual, expected, Tolerance{atol, rtol}); CHECK_THROWS(expr, "words"); }
//
// Every file is a program: it ends with TEST_MAIN(). Run it without arguments for all tests, or with parts of names to
// run the tests whose names contain one of them; naming none that exists is a failure, and so is a run of no test.
#pragma once

#include <cmath>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

namespace tinyllm::test {

// |actual - expected| <= atol + rtol * |expected|. The values in use are in tolerances.h.
struct Tolerance {
    double atol;
    double rtol;
};

struct Case {
    const char* name;
    void (*body)();
};
inline std::vector<Case> g_cases;
inline int g_failures = 0;  // failed checks of the running test; only the first few are printed

inline bool add_case(const char* name, void (*body)()) {
    g_cases.push_back({name, body});
    return true;
}

inline void check(bool ok, const std::string& what, const char* file, int line) {
    if (ok) return;
    if (++g_failures <= 10) std::printf("  %s:%d: %s\n", file, line, what.c_str());
}

inline void check_close(double actual, double expected, Tolerance t, const char* what, const char* file, int line) {
    const bool both_nan = std::isnan(actual) && std::isnan(expected);
    const bool ok =
        both_nan || actual == expected || std::abs(actual - expected) <= t.atol + t.rtol * std::abs(expected);
    if (ok) return;
    char values[128];
    std::snprintf(values, sizeof values, " is %.9g, expected %.9g (atol %g, rtol %g)", actual, expected, t.atol,
                  t.rtol);
    check(false, std::string(what) + values, file, line);
}

inline int run_all(int argc, char** argv) {
    int run = 0, failed = 0;
    for (const Case& test : g_cases) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc; ++i) wanted |= std::string(test.name).find(argv[i]) != std::string::npos;
        if (!wanted) continue;
        ++run;
        g_failures = 0;
        std::printf("%s\n", test.name);
        std::fflush(stdout);  // also for a test that crashes or forks
        try {
            test.body();
        } catch (const std::exception& e) {
            check(false, std::string("exception: ") + e.what(), test.name, 0);
        }
        failed += g_failures > 0;
    }
    std::printf("%d of %d tests passed\n", run - failed, run);
    return run > 0 && failed == 0 ? 0 : 1;
}

}  // namespace tinyllm::test

#define TEST(name)                                                                  \
    static void test_##name();                                                      \
    static const bool added_##name = ::tinyllm::test::add_case(#name, test_##name); \
    static void test_##name()
#define CHECK(...) ::tinyllm::test::check(static_cast<bool>(__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
#define CHECK_CLOSE(actual, expected, tolerance) \
    ::tinyllm::test::check_close(actual, expected, tolerance, #actual, __FILE__, __LINE__)
// The expression throws an exception whose message contains `words`.
#define CHECK_THROWS(expression, words)                                                                        \
    do {                                                                                                       \
        std::string message = "(nothing thrown)";                                                              \
        try {                                                                                                  \
            static_cast<void>(expression);                                                                     \
        } catch (const std::exception& e) {                                                                    \
            message = e.what();                                                                                \
        }                                                                                                      \
        ::tinyllm::test::check(message.find(words) != std::string::npos, #expression ": " + message, __FILE__, \
                               __LINE__);                                                                      \
    } while (0)
#define TEST_MAIN() \
    int main(int argc, char** argv) { return ::tinyllm::test::run_all(argc, argv); }
