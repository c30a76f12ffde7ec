// The border between C++ and the C ABI: exceptions become status codes, and messages are kept for tl_last_error().
#pragma once

#include <utility>

#include "tinyllm.h"

namespace tinyllm {

// Keeps `message` as the calling thread's last error. Without memory for it the message is empty.
void set_last_error(const char* message) noexcept;
// Message of the calling thread's last failure, "" if none; valid until the thread's next failure.
const char* last_error() noexcept;

// Only inside a catch block: keeps the message of the exception in flight and returns its status. Error gives its own
// status, std::bad_alloc OUT_OF_MEMORY, anything else INTERNAL.
tl_status translate_current_exception() noexcept;

// Runs the body of a C function. Nothing leaves it but a status.
template <typename Body>
tl_status guarded(Body&& body) noexcept {
    try {
        std::forward<Body>(body)();
        return TL_STATUS_OK;
    } catch (...) {
        return translate_current_exception();
    }
}

}  // namespace tinyllm
