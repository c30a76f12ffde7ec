// Loading: checkpoint tensors are checked, quantised and placed in the planned memory.
#pragma once

#include <string>
#include <vector>

#include "loading/importance.h"
#include "model/decoder_spec.h"
#include "model/weights.h"
#include "ops/backend.h"
#include "ops/planned_memory.h"

namespace tinyllm {

// Fills the planned weight memory from checkpoint tensors, in any order, each once. W8A16 is most accurate in the order
// of the forward pass with a tied table once more at the end, which quantises it again (loading/importance.h).
class WeightLoader {
public:
    WeightLoader(const ModelConfig& config, Backend& backend, MemoryTracker& tracker, const PlannedMemory& memory);

    // Checks name, shape and values (Checkpoint errors), quantises, and places the tensor.
    void load(const std::string& name, DType dtype, const std::vector<int64_t>& shape, const void* data);
    // Checks that every tensor came; computes the RoPE frequencies.
    void finish();
    // Instead of all that, for benchmarks: made-up matrices (quantization/random_weights.h), norms of 1, biases of 0.
    void fill_random(uint64_t seed);

    const DecoderSpec& spec() const { return spec_; }
    const ModelWeights& weights() const { return weights_; }

private:
    // Where one checkpoint tensor goes: rows of a matrix, or elements of a float vector.
    struct Target {
        std::string name;
        LinearWeight weight;      // data null for vectors
        float* vector = nullptr;  // null for matrices and for divisors of the RoPE frequencies
        RowMap rows;
        int64_t num_rows = 0;  // elements for vectors
        bool shared = false;   // other tensors fill the same vector
        bool loaded = false;
    };

    // The weight of a matrix, cleared where tensors leave gaps.
    LinearWeight linear(const MatrixSpec& spec) const;
    // The same, and targets for the tensors that fill it.
    LinearWeight add_matrix(const MatrixSpec& spec);
    NormWeight add_norm(const VectorSpec& spec);
    void load_matrix(const Target& target, const HostTensor& tensor);
    void load_vector(const Target& target, const HostTensor& tensor);

    const DecoderSpec spec_;
    Backend& backend_;
    MemoryTracker& tracker_;
    const PlannedMemory& memory_;
    ModelWeights weights_;
    std::vector<Target> targets_;  // sorted by name after construction
    std::vector<float> freq_factors_;
    InputImportance importance_;
};

}  // namespace tinyllm
