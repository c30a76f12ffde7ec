// The command line of tinyllm-bench.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "config/engine_config.h"
#include "config/model_config.h"

namespace tinyllm::bench {

struct Options {
    std::string model_name;
    ModelConfig model;
    DeviceKind device = DeviceKind::Cpu;
    int32_t device_index = 0;
    std::vector<int32_t> prompts = {512};
    int32_t generate = 128;
    std::vector<int32_t> batches;  // never empty: parse_options() puts the default of the measurement
    int32_t context = 16;          // tokens of each sequence before the measured decode steps
    int32_t max_step_tokens = 0;
    int32_t repeat = 3;
    bool speed = true;
    bool load = false;  // the weights come as a checkpoint's do, and that is measured
    bool kernels = false;
    bool memory = false;
    bool ceilings = true;
    std::string json_file;
    bool help = false;
};

// The largest of some values; 0 of none.
inline int32_t largest(const std::vector<int32_t>& values) {
    return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
}

// An engine on the device of `options`. A max_step_tokens of 0 is the device's default.
EngineConfig engine_config(const Options& options, int32_t batch, int32_t context, int32_t max_step_tokens);

std::string usage();
// Throws InvalidArgument naming the flag and what it takes.
Options parse_options(int argc, char** argv);

}  // namespace tinyllm::bench
