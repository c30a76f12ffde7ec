// Where the weights of a model lie.
#pragma once

#include <vector>

#include "ops/ops.h"

namespace tinyllm {

struct LayerWeights {
    QkvWeights qkv;
    LinearWeight o_proj;
    NormWeight post_attention_norm;
    LinearWeight gate_up;
    LinearWeight down_proj;
};

struct ModelWeights {
    LinearWeight embedding;
    std::vector<LayerWeights> layers;
    NormWeight norm;
    LinearWeight head;  // the embedding itself where tied
    RopeParams rope;
};

}  // namespace tinyllm
