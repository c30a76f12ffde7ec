// DecoderSpec: what a model is made of, stated once. The plan, the loader, the forward pass, the estimates and the
// benchmarks iterate it, and Python asks for its tensors. make_decoder_spec() is the only place that says which
// matrices and vectors a layer has, how large they are, and which tensors of a checkpoint fill them.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "config/kinds.h"
#include "memory/tracker.h"
#include "ops/backend.h"
#include "ops/model_shapes.h"
#include "ops/rope.h"
#include "quantization/layout.h"

namespace tinyllm {

struct ModelConfig;

// What the outputs of a checkpoint's matrix are in the forward pass.
enum class TensorRole : int32_t { Embedding, Query, Key, Value, Gate, Up, Residual, Logits };

// Whether the second moments of these outputs are wanted while weights load (loading/importance.h).
constexpr bool passes_moments(TensorRole role) {
    return role == TensorRole::Value || role == TensorRole::Gate || role == TensorRole::Up ||
           role == TensorRole::Residual;
}

// A matrix of the checkpoint, [num_rows, k of the MatrixSpec], and perhaps its bias.
struct TensorSpec {
    std::string name;  // the tensors are name.weight and name.bias
    TensorRole role;
    int32_t num_rows;
    RowMap rows;  // where they lie in the engine's matrix
};

enum class MatrixRole : int32_t { Embedding, Qkv, AttentionOutput, GateUp, Down, Head };

// A matrix of the engine: y = x W^T + b.
struct MatrixSpec {
    std::string name;  // in the plan: name.weight, name.scales, name.bias
    MatrixRole role;
    int32_t n;  // outputs
    int32_t k;  // inputs
    QuantizationType quantization;
    int32_t group_length;  // inputs that share a scale
    DType dtype;           // element type where not quantised
    bool bias;
    std::vector<TensorSpec> tensors;  // that fill it; of Qkv: query, key, value; of GateUp: gate, up
    LaunchHints hints;

    Component component() const { return role == MatrixRole::Embedding ? Component::Embedding : Component::Weights; }
    LinearLayout layout(DeviceKind device) const {
        return linear_layout(device, quantization, dtype, n, k, group_length);
    }
};

enum class VectorRole : int32_t { InvFreq, InputNorm, QNorm, KNorm, PostAttentionNorm, FinalNorm };

// Whether the vector is the weight of an RMSNorm of the residual stream.
constexpr bool normalizes_residual(VectorRole role) {
    return role == VectorRole::InputNorm || role == VectorRole::PostAttentionNorm || role == VectorRole::FinalNorm;
}

// A float32 vector of the engine. Biases belong to their MatrixSpec.
struct VectorSpec {
    std::string name;  // in the plan
    VectorRole role;
    int32_t size;
    std::string tensor;  // of the checkpoint; of InvFreq: divides the frequencies that the engine computes, "" if none
    MatrixRole before;   // the matrix that comes next in the forward pass; not of InvFreq
};

struct AttentionSpec {
    AttentionShape shape;
    bool qk_norm;
};

// down(silu(gate(x)) * up(x))
struct MlpSpec {
    int32_t dim;
};

// What a layer computes: hidden += mixer(norm(hidden)), then hidden += ffn(norm(hidden)). Another kind of mixer (a
// recurrent one, with a state of fixed size for each sequence) or of feed-forward part (experts) is another alternative
// of its variant, with its own matrices in the lists below and its own case where forward.cpp runs a layer.
struct LayerSpec {
    std::variant<AttentionSpec> mixer;
    std::variant<MlpSpec> ffn;
    std::vector<MatrixSpec> matrices;  // in the order of the forward pass
    std::vector<VectorSpec> vectors;   // in the order of the plan

    const AttentionSpec& attention() const { return std::get<AttentionSpec>(mixer); }
    const MlpSpec& mlp() const { return std::get<MlpSpec>(ffn); }
};

struct DecoderSpec {
    int32_t vocab_size;
    int32_t hidden_dim;
    DType dtype;                    // of activations, KV cache and matrices that are not quantised
    QuantizationType quantization;  // of all matrices but a table that is only looked up in
    float norm_eps;
    MatrixSpec embedding;
    RopeSpec rope;  // of all layers; where layers differ it becomes a list, and AttentionSpec says which
    VectorSpec inv_freq;
    std::vector<LayerSpec> layers;
    VectorSpec norm;                 // of the residual stream, before the output matrix
    std::optional<MatrixSpec> head;  // the output matrix; none: it is the embedding

    const MatrixSpec& output() const { return head ? *head : embedding; }
    // In the order of the plan: all matrices, that of the forward pass; all vectors.
    std::vector<const MatrixSpec*> matrices() const&;
    std::vector<const VectorSpec*> vectors() const&;
    std::vector<const MatrixSpec*> matrices() && = delete;  // they would outlive their spec
    std::vector<const VectorSpec*> vectors() && = delete;
};

DecoderSpec make_decoder_spec(const ModelConfig& config);

// A tensor of the checkpoint: [rows, inputs] of a matrix, or [size] of a vector.
struct CheckpointTensor {
    std::string name;
    std::vector<int64_t> shape;
    bool again = false;  // it is in the list already: a tied table is quantised again once its inputs are known
};

// All tensors of a checkpoint in the order of the forward pass, which is the best one to load them in.
std::vector<CheckpointTensor> checkpoint_tensors(const DecoderSpec& spec);

ModelShapes model_shapes(const DecoderSpec& spec);

}  // namespace tinyllm
