// ModelShapes: what the kernels of a backend must know of a model to say how much scratch they need.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/ops.h"

namespace tinyllm {

struct MatrixShape {
    int32_t n = 0;  // outputs
    int32_t k = 0;  // inputs

    bool operator==(const MatrixShape&) const = default;
};

struct ModelShapes {
    std::vector<MatrixShape> matrices;       // each that occurs, once
    std::vector<AttentionShape> attentions;  // likewise
    int32_t vocab_size = 0;

    int32_t largest_k() const {
        int32_t largest = 0;
        for (const MatrixShape& matrix : matrices) largest = matrix.k > largest ? matrix.k : largest;
        return largest;
    }
};

}  // namespace tinyllm
