// How much each input of each matrix matters, estimated from the weights alone while they load.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/decoder_spec.h"
#include "ops/backend.h"

namespace tinyllm {

// The rounding error of a weight w[n, k] reaches the output times the input x[k], so it counts E[x[k]^2]. Without text
// to measure that on, it is estimated by passing second moments through the layers as if all inputs of a matrix were
// independent with mean 0 and attention weighed its tokens by 1:
//
//   S[k]  second moment of the residual stream: mean of the squares of column k of the embedding, to which every
//         o_proj and down_proj adds (W*W) m, m being its inputs' moments
//   norm: u[k] = weight[k]^2 * S[k] / mean(S)
//   o_proj inputs:    (Wv*Wv) u of the value head that serves the query head
//   down_proj inputs: E[silu(g)^2] * (Wup*Wup) u for a normal g of variance (Wgate*Wgate) u
//
// The importance of o_proj and down_proj inputs is that moment. Behind a norm it is weight[k]^2 * (S[k] / mean(S))^2:
// real models keep a few outlier channels that grow far beyond what independent inputs would add up to, and the second
// power comes closer to measured moments than the first. Biases are left out.
//
// This needs the tensors in the order of the forward pass (embed_tokens; in each layer the input norm, v, o, the post
// attention norm, gate, up, down; norm; lm_head, or embed_tokens again where it is the output matrix too); others may
// come in between. From the first that comes late on, inputs count equally, as they do when embed_tokens first comes.
class InputImportance {
public:
    explicit InputImportance(const DecoderSpec& spec);

    // Importance of the inputs of the matrix `name`, [its inputs], until the next add_*(); null: equal.
    const float* of(const std::string& name) const;
    // How Backend::load_linear() is to load the matrix `name` of `rows` rows: the importance of its inputs, and the
    // moments that the estimate needs of it, which go to memory of this object. Valid until the next add_*().
    LinearLoad load_of(const std::string& name, int64_t rows);
    // Takes in the matrix `name`, which was loaded as load_of() said; its shape is the model's.
    void add_matrix(const std::string& name);
    // Takes in a vector that was loaded; its values are finite and its size is the model's.
    void add_vector(const std::string& name, const std::vector<float>& values);

private:
    // A tensor that the estimate waits for, and others that multiply the same inputs.
    struct Step {
        std::optional<TensorRole> role;  // none: a norm
        std::string tensor;
        std::vector<std::string> beside;
        AttentionShape attention;  // of values
    };

    void add_steps(const LayerSpec& layer);
    // The step that `name` is the tensor of, if it is the next one; else null.
    const Step* step_of(const std::string& name) const;
    void add_value(const AttentionShape& shape);
    void add_norm(const std::vector<float>& norm);
    void add_to_residual();

    std::vector<Step> steps_;        // in the order of the forward pass
    size_t next_ = 0;                // steps_[next_] is waited for; at the end nothing is
    std::vector<float> residual_;    // S, [hidden_dim]
    std::vector<float> moments_;     // of the inputs of the matrix that is waited for
    std::vector<float> importance_;  // of the same inputs; empty where it is moments_
    std::vector<float> gate_;        // second moments of the gate's outputs, until up comes
    std::vector<float> found_;       // moments that load_of() asked for
};

}  // namespace tinyllm
