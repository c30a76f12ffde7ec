#include <cmath>
#include <cstdio>

#include "backends/registry.h"
#include "bench/measure.h"

namespace tinyllm::bench {

std::string share(double value, double ceiling, const char* what) {
    return std::isnan(ceiling) ? std::string() : format(", %3.0f%% of %s", 100 * value / ceiling, what);
}

Ceilings measure_ceilings(const Options& options, Report& report) {
    if (!options.ceilings) return {NAN, NAN};
    const std::unique_ptr<Backend> backend = make_backend(options.device, options.device_index);
    MemoryTracker tracker;
    const Ceilings ceilings{backend->measure_read_bandwidth(tracker), backend->measure_matrix_rate(tracker)};
    std::printf("ceilings of this run: read bandwidth %.1f GB/s, matrix rate %.2f TFLOP/s\n\n",
                ceilings.read_bandwidth * 1e-9, ceilings.matrix_rate * 1e-12);
    report.header.add("read_bandwidth_gbps", ceilings.read_bandwidth * 1e-9)
        .add("matrix_rate_tflops", ceilings.matrix_rate * 1e-12);
    return ceilings;
}

}  // namespace tinyllm::bench
