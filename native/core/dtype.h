// Element types and their conversions on the host. Plain integer code: every compiler and CPU gives the same bits.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "tinyllm.h"

namespace tinyllm {

enum class DType : int32_t { F32 = TL_DTYPE_F32, F16 = TL_DTYPE_F16, BF16 = TL_DTYPE_BF16, I8 = 3, I32 = 4, U32 = 5 };

constexpr size_t dtype_size(DType type) {
    switch (type) {
        case DType::F32:
        case DType::I32:
        case DType::U32:
            return 4;
        case DType::F16:
        case DType::BF16:
            return 2;
        case DType::I8:
            return 1;
    }
    return 0;
}

constexpr const char* dtype_name(DType type) {
    switch (type) {
        case DType::F32:
            return "float32";
        case DType::F16:
            return "float16";
        case DType::BF16:
            return "bfloat16";
        case DType::I8:
            return "int8";
        case DType::I32:
            return "int32";
        case DType::U32:
            return "uint32";
    }
    return "?";
}

// IEEE 754 binary16 and bfloat16 as bits; arithmetic happens in float.
struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

inline float to_float(float x) { return x; }

inline float to_float(bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

inline float to_float(f16 x) {
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
    const uint32_t magnitude = x.bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    if (magnitude >= 0x0400u) return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
    // Subnormal: magnitude * 2^-24 is exact in float.
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign ? -value : value;
}

// Round to nearest, ties to even; NaN stays NaN; overflow becomes infinity.
template <typename T>
T from_float(float x);

template <>
inline float from_float<float>(float x) {
    return x;
}

template <>
inline bf16 from_float<bf16>(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
    return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

template <>
inline f16 from_float<f16>(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x);
    const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
    const uint32_t magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds to 65536 or more
    if (magnitude < 0x38800000u) {
        // Below 2^-14: adding 2^-1's ulp pattern lets the FPU round to a multiple of 2^-24.
        const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
        return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u))};
    }
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

}  // namespace tinyllm
