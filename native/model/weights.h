// Where the weights of a model lie.
#pragma once

#include <vector>

#include "model/decoder_spec.h"
#include "ops/ops.h"

namespace tinyllm {

struct LayerWeights {
    QkvWeights qkv;
    LinearWeight o_proj;
    NormWeight post_attention_norm;
    LinearWeight gate_up;
    LinearWeight down_proj;

    // Where a matrix or a vector of a LayerSpec belongs.
    LinearWeight& at(MatrixRole role);
    NormWeight& at(VectorRole role);
};

struct ModelWeights {
    LinearWeight embedding;
    std::vector<LayerWeights> layers;
    NormWeight norm;
    LinearWeight head;  // the embedding itself where tied
    RopeParams rope;
};

}  // namespace tinyllm
