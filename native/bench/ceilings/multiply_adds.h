// Chains of multiply-adds, enough to fill the pipelines of an instruction set. Each function returns the operations
// that it did, and a value that depends on all of them through `sink`.
#pragma once

#include <cstdint>

namespace tinyllm::bench {

double multiply_adds_portable(int64_t rounds, float& sink);
double multiply_adds_avx2(int64_t rounds, float& sink);
double multiply_adds_avx512(int64_t rounds, float& sink);

}  // namespace tinyllm::bench
