// The measurements of tinyllm-bench. Each prints its table and adds its rows to the report.
#pragma once

#include <string>

#include "bench/ceilings/ceilings.h"
#include "bench/options.h"
#include "bench/report.h"

namespace tinyllm::bench {

// ", 87% of WHAT"; nothing where the ceiling was not measured (NaN).
std::string share(double value, double ceiling, const char* what);

// Those of the device of `options`; NaN where they are not wanted.
Ceilings measure_ceilings(const Options& options, Report& report);
// Prefill of each prompt length, decode of each batch.
void measure_speed(const Options& options, const Ceilings& ceilings, Report& report);
// Each operation of the model by itself, caches flushed.
void measure_kernels(const Options& options, const Ceilings& ceilings, Report& report);
// The plan and, where the device is there, what an engine really allocates.
void print_memory(const Options& options, Report& report);
// What int8 saves, the KV cache over context and batch, the activations of a prompt kept and recomputed.
void print_model_tables(const Options& options);

}  // namespace tinyllm::bench
