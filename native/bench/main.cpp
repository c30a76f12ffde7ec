// tinyllm-bench: what this engine reaches on this machine, as a share of what the machine can do.
#include <cstdio>
#include <exception>

#include "bench/measure.h"
#include "bench/options.h"
#include "core/error.h"
#include "ops/registry.h"

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
}

int run(int argc, char** argv) {
    const Options options = parse_options(argc, argv);
    if (options.help) {
        std::printf("%s", usage().c_str());
        return 0;
    }
    Report report;
    print_header(options, report);
    if (options.memory) print_memory(options, report);
    if (options.speed || options.kernels) {
        const Ceilings ceilings = measure_ceilings(options, report);
        if (options.kernels) measure_kernels(options, ceilings, report);
        if (options.speed) measure_speed(options, ceilings, report);
    }
    if (!options.json_file.empty()) report.write_json(options.json_file);
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
