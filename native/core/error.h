// Errors: one exception type inside the library, translated once in api/api.cpp.
//
// Every failure that a caller can cause or must know of is thrown as `Error` with a `Status`; the message says
// what was wrong, the values, and what to do. Nothing else crosses the library's levels, and nothing crosses the C ABI.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

#include "tinyllm.h"

namespace tinyllm {

using Status = tl_status;

// Joins values into one string, as `operator<<` prints them.
template <typename... Args>
std::string concat(const Args&... args) {
    std::ostringstream out;
    (out << ... << args);
    return out.str();
}

class Error : public std::runtime_error {
public:
    Error(Status status, const std::string& message) : std::runtime_error(message), status_(status) {}
    Status status() const noexcept { return status_; }

private:
    Status status_;
};

// Throws `Error` with the values joined into its message.
template <typename... Args>
[[noreturn]] void fail(Status status, const Args&... args) {
    throw Error(status, concat(args...));
}

}  // namespace tinyllm

// For states that only a bug inside tinyllm can bring about; user errors call fail() with their own words.
#define TL_CHECK(condition)                                                                                   \
    do {                                                                                                      \
        if (!(condition))                                                                                     \
            ::tinyllm::fail(TL_STATUS_INTERNAL, "internal error at ", __FILE__, ":", __LINE__, ": expected ", \
                            #condition, "; please report this");                                              \
    } while (0)
