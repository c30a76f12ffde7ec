// The maps by which the copy engine finds a weight's boxes and scales (linear_decode_feed.cuh).
#pragma once

#include "backends/cuda/linear_decode_feed.cuh"
#include "backends/cuda/runtime/tensor_map.h"

namespace tinyllm {

struct FeedMaps {
    CUtensorMap weights;
    CUtensorMap scales;  // unset where not quantised
};

template <typename T, bool kQuantized>
FeedMaps make_feed_maps(const DecodeWeight& weight) {
    const int64_t n_padded = int64_t{weight.num_tiles} * kTileRows;
    FeedMaps maps = {};
    maps.weights = make_tensor_map({.data = weight.data,
                                    .type = kQuantized ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_UINT16,
                                    .rows = n_padded,
                                    .cols = weight.k_padded,
                                    .row_bytes = int64_t{weight.k_padded} * (kQuantized ? 1 : 2),
                                    .box_rows = kTileRows,
                                    .box_cols = kQuantized ? 128 : 64,
                                    .swizzled = true});
    if (kQuantized)
        maps.scales = make_tensor_map({.data = weight.scales,
                                       .type = CU_TENSOR_MAP_DATA_TYPE_UINT16,
                                       .rows = weight.groups,
                                       .cols = n_padded,
                                       .row_bytes = n_padded * 2,
                                       .box_rows = FeedLayout<T, kQuantized>::stage_groups(weight),
                                       .box_cols = kTileRows});
    return maps;
}

}  // namespace tinyllm
