// Tensor maps: descriptions of matrices for TMA (compute capability 9.0).
#pragma once

#include <cuda.h>

#include <cstdint>

namespace tinyllm::cuda {

// A row-major matrix in device memory and the box of it that one copy moves.
struct TensorBox {
    const void* data = nullptr;  // 16-byte aligned
    CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT8;
    int64_t rows = 0;
    int64_t cols = 0;
    int64_t row_bytes = 0;  // from row to row, a multiple of 16
    int32_t box_rows = 0;   // at most 256
    int32_t box_cols = 0;   // swizzled: 128 bytes
    bool swizzled = false;  // 128-byte swizzle: 16-byte vector c of box row r lands at vector c ^ (r % 8)
};

// The map for a kernel's __grid_constant__ parameter. Throws a CUDA error where the driver refuses it.
CUtensorMap make_tensor_map(const TensorBox& box);

}  // namespace tinyllm::cuda
