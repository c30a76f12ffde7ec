// Which matrices and vectors a configuration implies.
#pragma once

#include <string>
#include <vector>

#include "config/config.h"
#include "memory/tracker.h"
#include "quantization/layout.h"

namespace tinyllm {

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

std::string layer_name(int index);
LinearSpec qkv_spec(const ModelConfig& c, int layer);
LinearSpec o_spec(const ModelConfig& c, int layer);
LinearSpec gate_up_spec(const ModelConfig& c, int layer);
LinearSpec down_spec(const ModelConfig& c, int layer);
LinearSpec embedding_spec(const ModelConfig& c);
LinearSpec head_spec(const ModelConfig& c);

}  // namespace tinyllm
