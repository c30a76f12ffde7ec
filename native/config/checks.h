// Checks of configuration values; each failure names the field, its value and what is expected.
#pragma once

#include <cstdint>

#include "core/error.h"

namespace tinyllm {

void require(bool ok, const char* field, auto value, const char* expected) {
    if (!ok) fail(TL_STATUS_CONFIG, field, " = ", value, " is not supported; expected ", expected);
}

inline void require_positive(const char* field, int32_t value) {
    require(value > 0, field, value, "a positive number");
}

inline void require_range(const char* field, int32_t value, int32_t largest) {
    require(value > 0 && value <= largest, field, value, concat("1 to ", largest).c_str());
}

// The caller's struct must be the one this library was compiled with.
template <typename T>
void require_struct(const T& c, const char* name) {
    if (c.struct_size != sizeof(T))
        fail(TL_STATUS_INVALID_ARGUMENT, name, ".struct_size = ", c.struct_size, ", expected ", sizeof(T),
             "; the caller was built against another version of tinyllm.h");
}

}  // namespace tinyllm
