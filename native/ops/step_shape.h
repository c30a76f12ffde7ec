// How many rows a step has at most, and with that the sizes of the buffers of a forward pass.
#pragma once

#include <cstdint>

namespace tinyllm {

struct ModelConfig;
struct EngineConfig;

// Row counts that size the buffers of a forward pass.
struct StepShape {
    int32_t max_rows;   // rows of one step: a prefill chunk or all decoding sequences
    int32_t tile_rows;  // rows that pass through a layer together; less than max_rows where activations are recomputed
    int32_t logits_rows;  // rows of logits that exist at a time

    int32_t max_tiles() const { return (max_rows + tile_rows - 1) / tile_rows; }
};
StepShape step_shape(const ModelConfig& model, const EngineConfig& engine);

}  // namespace tinyllm
