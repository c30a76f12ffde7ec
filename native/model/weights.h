// The weights of a model: which tensors a configuration implies, where they lie, and how they are loaded.
#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "model/importance.h"
#include "model/layout.h"
#include "ops/backend.h"

namespace tinyllm {

class PlannedMemory;

// A matrix of the engine. Several checkpoint tensors may fill one: q, k and v; gate and up.
struct LinearSpec {
    std::string name;
    Component component;
    int32_t n;
    int32_t k;
    QuantizationType quantization;
    bool bias;

    LinearLayout layout(const ModelConfig& config, DeviceKind device) const {
        return linear_layout(device, quantization, config.dtype, n, k, config.group_length(k));
    }
};

// A float32 vector of the engine: norms and RoPE frequencies. Biases belong to their LinearSpec.
struct VectorSpec {
    std::string name;
    int32_t size;
};

std::vector<LinearSpec> linear_specs(const ModelConfig& config);
std::vector<VectorSpec> vector_specs(const ModelConfig& config);

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

// Fills the planned weight memory from checkpoint tensors, in any order, each once. W8A16 is most accurate in the order
// of the forward pass with a tied table once more at the end, which quantises it again (model/importance.h).
class WeightLoader {
public:
    WeightLoader(const ModelConfig& config, Backend& backend, MemoryTracker& tracker, const PlannedMemory& memory);

    // Checks name, shape and values (Checkpoint errors), quantises, and places the tensor.
    void load(const std::string& name, DType dtype, const std::vector<int64_t>& shape, const void* data);
    // Checks that every tensor came; computes the RoPE frequencies.
    void finish();
    // Instead of all that, for benchmarks: made-up matrices (model/random_weights.h), norms of 1, biases of 0.
    void fill_random(uint64_t seed);

    const ModelWeights& weights() const { return weights_; }

private:
    // Where one checkpoint tensor goes: rows of a matrix, or elements of a float vector.
    struct Target {
        std::string name;
        LinearWeight weight;      // data null for vectors
        float* vector = nullptr;  // null for matrices and for rope_freqs.weight
        RowMap rows;
        int64_t num_rows = 0;  // elements for vectors
        bool shared = false;   // other tensors fill the same vector
        bool loaded = false;
    };

    void add_linear(const std::string& tensor, const LinearWeight& weight, RowMap rows, int32_t num_rows, bool bias);
    void add_vector(const std::string& tensor, const float* data, int32_t size);
    void describe_layer(int index);
    LinearWeight linear(const LinearSpec& spec) const;
    void load_matrix(const Target& target, const HostTensor& tensor);
    void load_vector(const Target& target, const HostTensor& tensor);

    const ModelConfig config_;
    Backend& backend_;
    MemoryTracker& tracker_;
    const PlannedMemory& memory_;
    ModelWeights weights_;
    std::vector<Target> targets_;  // sorted by name after construction
    std::vector<float> freq_factors_;
    InputImportance importance_;
};

}  // namespace tinyllm
