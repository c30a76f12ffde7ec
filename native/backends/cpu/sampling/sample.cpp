// The sample op: one thread per row of logits. Penalty and log-probability are here, the draw is in sample_row.h.
#include "backends/cpu/sampling/sample.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/sampling/sample_row.h"
#include "core/parallel.h"

namespace tinyllm::cpu {

namespace {

// Whether x has a finite element and neither NaN nor +infinity. By the bits, which compilers turn into vector code.
bool is_sound(const float* x, int64_t n) {
    constexpr int32_t kPositive = 0x7fffffff, kInfinity = 0x7f800000;
    constexpr int32_t kNegativeInfinity = std::numeric_limits<int32_t>::min() | kInfinity;
    int32_t bad = 0, finite = 0;
    for (int64_t i = 0; i < n; ++i) {
        const auto bits = std::bit_cast<int32_t>(x[i]);
        bad |= static_cast<int32_t>(bits >= kInfinity) | static_cast<int32_t>((bits & kPositive) > kInfinity);
        finite |= static_cast<int32_t>(bits != kNegativeInfinity);
    }
    return bad == 0 && finite != 0;
}

// The repetition penalty (CTRL: Keskar et al. 2019): each token seen so far becomes less likely, once.
// seen: bits [ceil(vocab_size / 32)]
void penalize(const uint32_t* seen, float penalty, int64_t vocab_size, float* scores) {
    for (int64_t word = 0; word < (vocab_size + 31) / 32; ++word) {
        for (uint32_t bits = seen[word]; bits != 0; bits &= bits - 1) {
            float& score = scores[word * 32 + std::countr_zero(bits)];
            score = score < 0 ? score * penalty : score / penalty;
        }
    }
}

// Log-softmax of `logits` at `token`.
float logprob_of(const LogitKernels& kernels, const float* logits, int64_t vocab_size, int64_t token) {
    const float max = logits[kernels.argmax(logits, vocab_size)];
    return static_cast<float>(logits[token] - max - std::log(kernels.sum_exp(logits, vocab_size, max, 1.0f)));
}

// Of one thread: the penalised scores, and RowSampler's work.
int64_t scratch_floats(int64_t vocab_size) { return 2 * pad_floats(vocab_size); }

}  // namespace

int64_t sample_scratch_bytes(int32_t vocab_size, int32_t rows) {
    const int64_t threads = std::min(num_threads(), rows);
    return threads * scratch_floats(vocab_size) * static_cast<int64_t>(sizeof(float));
}

void CpuBackend::sample(const StepBatch& batch, int32_t vocab_size, const uint32_t* seen, float* logits,
                        SampledToken* out) {
    const LogitKernels& kernels = kernels_.logits;
    const int64_t floats = scratch_floats(vocab_size), seen_words = (vocab_size + 31) / 32;
    const int64_t threads = std::min(num_threads(), batch.num_logits);
    auto* memory = static_cast<float*>(scratch(threads * floats * static_cast<int64_t>(sizeof(float))));
    parallel_for(batch.num_logits, 1, [&](int thread, int64_t begin, int64_t end) {
        float* penalized = memory + thread * floats;
        float* work = penalized + pad_floats(vocab_size);
        for (int64_t i = begin; i < end; ++i) {
            const SampleParams& params = batch.sample_params[i];
            const float* raw = logits + i * vocab_size;
            const float* scores = raw;
            if (seen != nullptr && params.slot >= 0 && params.repetition_penalty != 1) {
                std::copy(raw, raw + vocab_size, penalized);
                penalize(seen + params.slot * seen_words, params.repetition_penalty, vocab_size, penalized);
                scores = penalized;
            }
            if (!is_sound(scores, vocab_size)) {
                out[i] = {kNoToken, std::numeric_limits<float>::quiet_NaN()};
                continue;
            }
            int64_t token = kernels.argmax(scores, vocab_size);
            // Below FLT_MIN the reciprocal of the temperature overflows, and any difference of scores decides anyway.
            if (params.temperature >= FLT_MIN && std::isfinite(scores[token]))
                token = RowSampler(kernels, params, scores, vocab_size, token, work).draw();
            out[i].token_id = static_cast<int32_t>(token);
            out[i].logprob =
                params.logprobs ? logprob_of(kernels, raw, vocab_size, token) : std::numeric_limits<float>::quiet_NaN();
        }
    });
}

}  // namespace tinyllm::cpu
