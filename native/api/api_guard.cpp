#include "api/api_guard.h"

#include <exception>
#include <new>
#include <string>

#include "core/error.h"

namespace tinyllm {

namespace {
thread_local std::string t_last_error;
}

void set_last_error(const char* message) noexcept {
    try {
        t_last_error = message;
    } catch (const std::bad_alloc&) {
        t_last_error.clear();
    }
}

const char* last_error() noexcept { return t_last_error.c_str(); }

tl_status translate_current_exception() noexcept {
    try {
        throw;
    } catch (const Error& error) {
        set_last_error(error.what());
        return error.status();
    } catch (const std::bad_alloc&) {
        set_last_error("out of host memory; use a smaller model, context or batch");
        return TL_STATUS_OUT_OF_MEMORY;
    } catch (const std::exception& error) {
        set_last_error(error.what());
    } catch (...) {
        set_last_error("an exception of unknown type; please report this");
    }
    return TL_STATUS_INTERNAL;
}

}  // namespace tinyllm
