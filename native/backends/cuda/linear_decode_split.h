// How the decode kernels split the sum over k. The order of summation follows from here, so nothing in this file may
// depend on the number of rows or on the device.
//
// The inputs are cut into units of 64, the units into kSlices slices. A slice is summed in one chain by the tensor
// cores; slices of one chunk are added in order, then the chunks in order:
//     y = sum over chunks (sum over slices of the chunk (chain over the units of the slice))
#pragma once

#include <cstdint>

#include "runtime/kv_cache.h"  // TL_HOST_DEVICE

namespace tinyllm {

constexpr int32_t kUnit = 64;     // inputs of a unit: one block of the packed layout
constexpr int32_t kTileRows = 16;  // weight rows of a tile: one tensor core fragment
constexpr int32_t kSlices = 8;

// First unit of a slice; slice_begin(units, kSlices) == units.
TL_HOST_DEVICE constexpr int32_t slice_begin(int32_t units, int32_t slice) {
    return static_cast<int32_t>(int64_t{units} * slice / kSlices);
}

}  // namespace tinyllm
