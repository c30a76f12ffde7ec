#include "bench/options.h"

#include <algorithm>
#include <charconv>
#include <functional>

#include "backends/registry.h"
#include "bench/presets.h"
#include "config/limits.h"
#include "core/error.h"

namespace tinyllm::bench {

namespace {

int32_t parse_int(const std::string& flag, const std::string& text, int32_t low) {
    int32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < low || value > kMaxSeqLen)
        fail(TL_STATUS_INVALID_ARGUMENT, flag, " ", text, ": expected a whole number of at least ", low, ", at most ",
             kMaxSeqLen);
    return value;
}

std::vector<int32_t> parse_list(const std::string& flag, const std::string& text, int32_t low) {
    std::vector<int32_t> values;
    size_t begin = 0;
    while (begin <= text.size()) {
        const size_t end = std::min(text.find(',', begin), text.size());
        values.push_back(parse_int(flag, text.substr(begin, end - begin), low));
        begin = end + 1;
    }
    return values;
}

template <typename T>
T parse_choice(const std::string& flag, const std::string& text,
               const std::vector<std::pair<std::string, T>>& choices) {
    std::string names;
    for (const auto& [name, value] : choices) {
        if (name == text) return value;
        names += (names.empty() ? "" : ", ") + name;
    }
    fail(TL_STATUS_INVALID_ARGUMENT, flag, " ", text, ": expected one of ", names);
}

// cuda where a GPU is usable.
DeviceKind default_device() {
    for (const tl_device_info& device : list_devices())
        if (device.device_kind == TL_DEVICE_CUDA && device.usable) return DeviceKind::Cuda;
    return DeviceKind::Cpu;
}

struct Flag {
    const char* name;
    const char* value;  // null: takes none
    const char* help;
    std::function<void(Options&, const std::string&)> set;
};

Flag shape_flag(const char* name, const char* help, int32_t ModelConfig::* field) {
    return {name, "N", help, [name, field](Options& o, const std::string& v) {
                o.model.*field = parse_int(name, v, 1);
                o.model_name = "custom";
            }};
}

std::vector<Flag> flags() {
    return {
        {"--preset", "NAME", "shapes of a known model (default: smollm2-135m)",
         [](Options& o, const std::string& v) {
             const ModelConfig kept = o.model;
             o.model = preset_config(v);
             o.model.quantization = kept.quantization;
             o.model.group_size = kept.group_size;
             o.model.dtype = kept.dtype;
             o.model.recompute_activations = kept.recompute_activations;
             o.model_name = v;
         }},
        shape_flag("--vocab", "vocabulary; this and the next change single values of the preset",
                   &ModelConfig::vocab_size),
        shape_flag("--hidden", "width of the residual stream", &ModelConfig::hidden_dim),
        shape_flag("--intermediate", "width of the MLP", &ModelConfig::intermediate_dim),
        shape_flag("--layers", "layers", &ModelConfig::num_layers),
        shape_flag("--heads", "query heads", &ModelConfig::num_heads),
        shape_flag("--kv-heads", "key and value heads", &ModelConfig::num_kv_heads),
        {"--head-dim", "N", "width of a head",
         [](Options& o, const std::string& v) {
             o.model.head_dim = o.model.rotary_dim = parse_int("--head-dim", v, 2);
             o.model_name = "custom";
         }},
        {"--window", "N", "sliding window in tokens; 0: none (default)",
         [](Options& o, const std::string& v) { o.model.sliding_window = parse_int("--window", v, 0); }},
        {"--device", "DEV", "cpu, cuda or cuda:N (default: cuda where a GPU is usable)",
         [](Options& o, const std::string& v) {
             const size_t colon = std::min(v.find(':'), v.size());
             o.device = parse_choice<DeviceKind>("--device", v.substr(0, colon),
                                                 {{"cpu", DeviceKind::Cpu}, {"cuda", DeviceKind::Cuda}});
             if (colon < v.size()) o.device_index = parse_int("--device", v.substr(colon + 1), 0);
         }},
        {"--quantization", "Q", "w8a16 (default) or none",
         [](Options& o, const std::string& v) {
             o.model.quantization = parse_choice<QuantizationType>(
                 "--quantization", v, {{"w8a16", QuantizationType::W8A16}, {"none", QuantizationType::NONE}});
         }},
        {"--group-size", "N", "inputs that share a scale: 32, 64, 128 (default), 256, 0 for one group a row",
         [](Options& o, const std::string& v) { o.model.group_size = parse_int("--group-size", v, 0); }},
        {"--dtype", "T", "activations: float16 (default), bfloat16, float32 (cpu)",
         [](Options& o, const std::string& v) {
             o.model.dtype = parse_choice<DType>(
                 "--dtype", v, {{"float16", DType::F16}, {"bfloat16", DType::BF16}, {"float32", DType::F32}});
         }},
        {"--recompute-activations", nullptr, "less activation memory for more time",
         [](Options& o, const std::string&) { o.model.recompute_activations = true; }},
        {"--prompt", "N,...", "prefill lengths to measure (default: 512); 0 measures none",
         [](Options& o, const std::string& v) {
             o.prompts = parse_list("--prompt", v, 0);
             std::erase(o.prompts, 0);
         }},
        {"--generate", "N", "decode steps to measure (default: 128); 0 measures none",
         [](Options& o, const std::string& v) { o.generate = parse_int("--generate", v, 0); }},
        {"--batch", "B,...", "sequences that decode together (default: 1; with --kernels 1,4,16,64)",
         [](Options& o, const std::string& v) { o.batches = parse_list("--batch", v, 1); }},
        {"--context", "N", "tokens of each sequence before the measured decode steps (default: 16)",
         [](Options& o, const std::string& v) { o.context = parse_int("--context", v, 1); }},
        {"--max-step-tokens", "N", "rows of one prefill chunk (default: the device's)",
         [](Options& o, const std::string& v) { o.max_step_tokens = parse_int("--max-step-tokens", v, 1); }},
        {"--repeat", "N", "measurements of which the median is printed (default: 3)",
         [](Options& o, const std::string& v) { o.repeat = parse_int("--repeat", v, 1); }},
        {"--load", nullptr,
         "load the weights as from a checkpoint in memory, and print the rate; else they are made in place",
         [](Options& o, const std::string&) { o.load = true; }},
        {"--kernels", nullptr, "one row an operation and shape instead of the whole model",
         [](Options& o, const std::string&) {
             o.kernels = true;
             o.speed = false;
         }},
        {"--memory", nullptr, "the memory of --batch sequences of --context tokens instead of the speed; needs no GPU",
         [](Options& o, const std::string&) {
             o.memory = true;
             o.speed = false;
         }},
        {"--no-ceilings", nullptr, "do not measure read bandwidth and matrix rate, print no shares",
         [](Options& o, const std::string&) { o.ceilings = false; }},
        {"--json", "FILE",
         "also write all results as JSON ('-': standard output; the tables then go to standard error)",
         [](Options& o, const std::string& v) { o.json_file = v; }},
        {"--help", nullptr, "this text", [](Options& o, const std::string&) { o.help = true; }},
    };
}

}  // namespace

std::string usage() {
    std::string text =
        "usage: tinyllm-bench [FLAGS]\n\n"
        "Measures prefill and decode of a model with made-up weights, and the device's read bandwidth and matrix rate "
        "in\n"
        "the same run, of which every result is printed as a share. Medians over --repeat, with the spread.\n\n";
    for (const Flag& flag : flags()) {
        std::string left = std::string("  ") + flag.name + (flag.value ? std::string(" ") + flag.value : "");
        left.resize(std::max<size_t>(left.size() + 1, 28), ' ');
        text += left + flag.help + "\n";
    }
    return text + "\npresets: " + preset_names() + "\n";
}

Options parse_options(int argc, char** argv) {
    Options options;
    options.model = preset_config("smollm2-135m");
    options.model_name = "smollm2-135m";
    options.device = default_device();
    const std::vector<Flag> known = flags();
    for (int i = 1; i < argc; ++i) {
        std::string name = argv[i], value;
        const size_t equals = name.find('=');
        const bool inline_value = name.starts_with("--") && equals != std::string::npos;
        if (inline_value) {
            value = name.substr(equals + 1);
            name.resize(equals);
        }
        const auto flag = std::find_if(known.begin(), known.end(), [&](const Flag& f) { return name == f.name; });
        if (flag == known.end())
            fail(TL_STATUS_INVALID_ARGUMENT, "unknown flag '", name, "'; tinyllm-bench --help lists all");
        if (flag->value == nullptr && inline_value) fail(TL_STATUS_INVALID_ARGUMENT, name, " takes no value");
        if (flag->value != nullptr && !inline_value) {
            if (i + 1 == argc) fail(TL_STATUS_INVALID_ARGUMENT, name, " needs a value: ", flag->value);
            value = argv[++i];
        }
        flag->set(options, value);
    }
    if (options.load && !options.speed)
        fail(TL_STATUS_INVALID_ARGUMENT, "--load loads the whole model, which --kernels and --memory do not use");
    if (options.batches.empty())
        options.batches = options.kernels ? std::vector<int32_t>{1, 4, 16, 64} : std::vector<int32_t>{1};
    if (options.memory && options.batches.size() > 1)
        fail(TL_STATUS_INVALID_ARGUMENT, "--memory shows one batch; its tables of the KV cache have several");
    options.model.validate();
    return options;
}

}  // namespace tinyllm::bench
