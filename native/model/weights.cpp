#include "model/weights.h"

#include "core/error.h"

namespace tinyllm {

LinearWeight& LayerWeights::at(MatrixRole role) {
    switch (role) {
        case MatrixRole::Qkv:
            return qkv.qkv;
        case MatrixRole::AttentionOutput:
            return o_proj;
        case MatrixRole::GateUp:
            return gate_up;
        case MatrixRole::Down:
            return down_proj;
        case MatrixRole::Embedding:
        case MatrixRole::Head:
            break;
    }
    fail(TL_STATUS_INTERNAL, "a layer has no matrix of role ", static_cast<int32_t>(role));
}

NormWeight& LayerWeights::at(VectorRole role) {
    switch (role) {
        case VectorRole::InputNorm:
            return qkv.input_norm;
        case VectorRole::QNorm:
            return qkv.q_norm;
        case VectorRole::KNorm:
            return qkv.k_norm;
        case VectorRole::PostAttentionNorm:
            return post_attention_norm;
        case VectorRole::InvFreq:
        case VectorRole::FinalNorm:
            break;
    }
    fail(TL_STATUS_INTERNAL, "a layer has no vector of role ", static_cast<int32_t>(role));
}

}  // namespace tinyllm
