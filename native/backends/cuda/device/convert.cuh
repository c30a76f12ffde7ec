// The activation types on the device and their conversions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/dtype.h"
#include "core/error.h"

namespace tinyllm::cuda {

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// Round to nearest, ties to even.
template <typename T>
__device__ T round_to(float x);
template <>
__device__ inline float round_to<float>(float x) {
    return x;
}
template <>
__device__ inline __half round_to<__half>(float x) {
    return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 round_to<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

// kCount consecutive elements, moved with one load or store of at most 16 bytes.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
    T element[kCount];
};

// Calls body(T{}) with the device type of an activation type.
template <typename Body>
void with_activation(DType activation, Body&& body) {
    switch (activation) {
        case DType::F16:
            return body(__half{});
        case DType::BF16:
            return body(__nv_bfloat16{});
        default:
            fail(TL_STATUS_CONFIG, dtype_name(activation), " activations run on the CPU only; use float16 or bfloat16");
    }
}

// Calls body(Raw{}) with the device type of a checkpoint tensor's elements.
template <typename Body>
void with_raw(DType dtype, Body&& body) {
    switch (dtype) {
        case DType::F32:
            return body(float{});
        case DType::F16:
            return body(__half{});
        case DType::BF16:
            return body(__nv_bfloat16{});
        default:
            fail(TL_STATUS_INVALID_ARGUMENT, "a weight cannot be loaded from ", dtype_name(dtype));
    }
}

}  // namespace tinyllm::cuda
