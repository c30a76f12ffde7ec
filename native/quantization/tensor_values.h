// Values of a checkpoint tensor as floats.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "ops/backend.h"

namespace tinyllm {

// Writes elements [begin, begin + count) of the flat tensor, whose memory may be unaligned, to `values`.
inline void read_values(const HostTensor& tensor, int64_t begin, int64_t count, float* values) {
    const char* at = static_cast<const char*>(tensor.data) + begin * static_cast<int64_t>(dtype_size(tensor.dtype));
    const auto read = [&](auto type) {
        for (int64_t i = 0; i < count; ++i) {
            std::memcpy(&type, at + i * static_cast<int64_t>(sizeof type), sizeof type);
            values[i] = to_float(type);
        }
    };
    switch (tensor.dtype) {
        case DType::F16:
            return read(f16{});
        case DType::BF16:
            return read(bf16{});
        default:
            return read(float{});
    }
}

}  // namespace tinyllm
