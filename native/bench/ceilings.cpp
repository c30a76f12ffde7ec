#include <cmath>
#include <cstdio>

#include "backends/registry.h"
#include "bench/measure.h"

namespace tinyllm::bench {

namespace {

Ceilings ceilings_of(DeviceKind kind, int32_t index) {
    const std::unique_ptr<Backend> backend = make_backend(kind, index);  // or says why the device cannot be used
#ifdef TINYLLM_WITH_CUDA
    if (kind == DeviceKind::Cuda) return cuda_ceilings(index);
#endif
    return cpu_ceilings();
}

}  // namespace

std::string share(double value, double ceiling, const char* what) {
    return std::isnan(ceiling) ? std::string() : format(", %3.0f%% of %s", 100 * value / ceiling, what);
}

Ceilings measure_ceilings(const Options& options, Report& report) {
    if (!options.ceilings) return {NAN, NAN};
    const Ceilings ceilings = ceilings_of(options.device, options.device_index);
    std::printf("ceilings of this run: read bandwidth %.1f GB/s, matrix rate %.2f TFLOP/s\n\n",
                ceilings.read_bandwidth * 1e-9, ceilings.matrix_rate * 1e-12);
    report.header.add("read_bandwidth_gbps", ceilings.read_bandwidth * 1e-9)
        .add("matrix_rate_tflops", ceilings.matrix_rate * 1e-12);
    return ceilings;
}

}  // namespace tinyllm::bench
