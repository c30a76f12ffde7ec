// Scratch of the CPU's sample op.
#pragma once

#include <cstdint>

namespace tinyllm::cpu {

// Bytes of scratch that CpuBackend::sample needs at most for `rows` rows of logits, on num_threads()
// threads.
int64_t sample_scratch_bytes(int32_t vocab_size, int32_t rows);

}  // namespace tinyllm::cpu
