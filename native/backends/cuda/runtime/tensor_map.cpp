#include "backends/cuda/runtime/tensor_map.h"

#include "backends/cuda/runtime/driver_function.h"

namespace tinyllm::cuda {

CUtensorMap make_tensor_map(const TensorBox& box) {
    static const auto encode = driver_function<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
    const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(box.cols), static_cast<cuuint64_t>(box.rows)};
    const cuuint64_t strides[1] = {static_cast<cuuint64_t>(box.row_bytes)};
    const cuuint32_t box_sizes[2] = {static_cast<cuuint32_t>(box.box_cols), static_cast<cuuint32_t>(box.box_rows)};
    const cuuint32_t steps[2] = {1, 1};
    CUtensorMap map;
    const CUresult result =
        encode(&map, box.type, 2, const_cast<void*>(box.data), sizes, strides, box_sizes, steps,
               CU_TENSOR_MAP_INTERLEAVE_NONE, box.swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
               CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        fail(TL_STATUS_CUDA, "cuTensorMapEncodeTiled refuses (error ", static_cast<int>(result), ") a matrix [",
             box.rows, ", ", box.cols, "] with rows of ", box.row_bytes, " bytes");
    return map;
}

}  // namespace tinyllm::cuda
