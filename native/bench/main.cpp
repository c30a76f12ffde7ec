// tinyllm-bench: what this engine reaches on this machine, as a share of what the machine can do.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>

#include "backends/registry.h"
#include "bench/measure.h"
#include "bench/options.h"
#include "core/error.h"

namespace tinyllm::bench {

namespace {

void print_header(const Options& options, Report& report) {
    std::printf("%s\n", tl_build_info());
    report.header.add("build", std::string(tl_build_info())).add("model", options.model_name);
    for (const tl_device_info& device : list_devices()) {
        if (device.device_kind != static_cast<int32_t>(options.device) || device.device_index != options.device_index)
            continue;
        std::printf("%s (%s)\n", device.name, device.description);
        report.header.add("device", std::string(device.name))
            .add("device_description", std::string(device.description));
    }
    const bool quantized = options.model.quantization == QuantizationType::W8A16;
    std::printf("%s, %s, activations %s\n", options.model_name.c_str(),
                quantized ? format("W8A16, group size %d", options.model.group_size).c_str() : "16-bit weights",
                dtype_name(options.model.dtype));
    report.header.add("quantization", std::string(quantized ? "w8a16" : "none"))
        .add("group_size", options.model.group_size)
        .add("dtype", std::string(dtype_name(options.model.dtype)));
    // For those who want the same model elsewhere: fields of ModelConfig.
    const ModelConfig& m = options.model;
    report.add("config", Record()
                             .add("vocab_size", m.vocab_size)
                             .add("hidden_dim", m.hidden_dim)
                             .add("intermediate_dim", m.intermediate_dim)
                             .add("num_layers", m.num_layers)
                             .add("num_heads", m.num_heads)
                             .add("num_kv_heads", m.num_kv_heads)
                             .add("head_dim", m.head_dim)
                             .add("max_seq_len", m.max_seq_len)
                             .add("rope_theta", m.rope_theta)
                             .add("tie_word_embeddings", m.tie_word_embeddings)
                             .add("qkv_bias", m.qkv_bias)
                             .add("qk_norm", m.qk_norm));
}

// Where --json goes. Opened before anything is measured, so that a wrong name costs no run.
class JsonFile {
public:
    // "" is nowhere. "-" is standard output, which the tables then leave to it: they go to standard error. Throws
    // InvalidArgument.
    explicit JsonFile(const std::string& name) : name_(name) {
        if (name.empty()) return;
        if (name == "-") {
            file_.reset(fdopen(dup(STDOUT_FILENO), "w"));
            dup2(STDERR_FILENO, STDOUT_FILENO);
        } else {
            file_.reset(std::fopen(name.c_str(), "w"));
        }
        if (file_ == nullptr) throw_unwritable();
    }

    void write(const Report& report) const {
        if (file_ == nullptr) return;
        const std::string text = report.json();
        if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() || std::fflush(file_.get()) != 0)
            throw_unwritable();
    }

private:
    struct Closer {
        void operator()(std::FILE* file) const { std::fclose(file); }
    };

    [[noreturn]] void throw_unwritable() const {
        fail(TL_STATUS_INVALID_ARGUMENT, "--json ", name_, ": ", std::strerror(errno));
    }

    std::string name_;
    std::unique_ptr<std::FILE, Closer> file_;
};

int run(int argc, char** argv) {
    const Options options = parse_options(argc, argv);
    if (options.help) {
        std::printf("%s", usage().c_str());
        return 0;
    }
    const JsonFile json_file(options.json_file);
    Report report;
    print_header(options, report);
    if (options.memory) print_memory(options, report);
    if (options.speed || options.kernels) {
        const Ceilings ceilings = measure_ceilings(options, report);
        if (options.kernels) measure_kernels(options, ceilings, report);
        if (options.speed) measure_speed(options, ceilings, report);
    }
    json_file.write(report);
    return 0;
}

}  // namespace

}  // namespace tinyllm::bench

// 0: done; 1: the run failed; 2: wrong usage.
int main(int argc, char** argv) {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    try {
        return tinyllm::bench::run(argc, argv);
    } catch (const tinyllm::Error& error) {
        std::fprintf(stderr, "tinyllm-bench: error: %s\n", error.what());
        const bool usage = error.status() == TL_STATUS_INVALID_ARGUMENT || error.status() == TL_STATUS_CONFIG;
        return usage ? 2 : 1;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "tinyllm-bench: error: %s\n", error.what());
        return 1;
    }
}
