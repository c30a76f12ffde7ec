// doctest, and what it lacks: comparison of numbers with an absolute and a relative tolerance.
//
// Every test file is a program. `PROGRAM --test-case=*words*` runs the tests whose names have these words in them;
// `PROGRAM --help` lists what else doctest can do.
#pragma once

#define DOCTEST_CONFIG_VOID_CAST_EXPRESSIONS  // so that Type(argument) is an expression in CHECK_THROWS_WITH
#include <doctest/doctest.h>

#include <cmath>
#include <string>

namespace tinyllm::test {

// |actual - expected| <= atol + rtol * |expected|. The values in use are in tolerances.h.
struct Tolerance {
    double atol;
    double rtol;
};

// Two NaN are close, and so are two equal infinities.
inline bool is_close(double actual, double expected, Tolerance t) {
    return (std::isnan(actual) && std::isnan(expected)) || actual == expected ||
           std::abs(actual - expected) <= t.atol + t.rtol * std::abs(expected);
}

// " at 3, 17": where in the arrays that are compared.
template <typename... Index>
std::string place(Index... index) {
    std::string text;
    ((text += (text.empty() ? " at " : ", ") + std::to_string(index)), ...);
    return text;
}

// The tests that the arguments choose; a program's exit status.
int run_tests(int argc, char** argv);

}  // namespace tinyllm::test

// CHECK_CLOSE(actual, expected, tolerance, index...): a failure names the index, both values and the tolerance.
#define CHECK_CLOSE(actual, expected, tolerance, ...)                                                        \
    do {                                                                                                     \
        const double actual_ = (actual), expected_ = (expected);                                             \
        const ::tinyllm::test::Tolerance tolerance_ = (tolerance);                                           \
        if (!::tinyllm::test::is_close(actual_, expected_, tolerance_))                                      \
            ADD_FAIL_CHECK_AT(__FILE__, __LINE__,                                                            \
                              #actual << " is " << actual_ << ", expected " << expected_                     \
                                      << ::tinyllm::test::place(__VA_ARGS__) << " (atol " << tolerance_.atol \
                                      << ", rtol " << tolerance_.rtol << ")");                               \
    } while (0)
