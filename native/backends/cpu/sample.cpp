// The sample op: one thread a row of logits.
//
// Every filter keeps the tokens whose score is at least some threshold, so together they are one threshold, `floor`,
// and nothing is sorted. The draw is then an argmax over the row in which almost all tokens are ruled out by a bound.
#include "backends/cpu/sample.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <functional>
#include <limits>

#include "backends/cpu/cpu_backend.h"
#include "core/parallel.h"
#include "runtime/sampling.h"

namespace tinyllm {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One row on its way to a token. `scores` are the logits after the repetition penalty; a NaN counts as -infinity.
struct RowSampler {
    const LogitKernels& kernels;
    const SampleParams& params;
    const float* scores;  // [vocab]
    int64_t vocab;
    float max;    // largest score
    float* work;  // scratch [vocab]

    // Copies the scores of at least `cut` to work; returns how many they are.
    int64_t gather(float cut) const {
        int64_t size = 0;
        for (int64_t i = 0; i < vocab; ++i) {
            work[size] = scores[i];
            size += scores[i] >= cut;
        }
        return size;
    }

    double weight(const float* first, int64_t count) const {
        return kernels.sum_exp(first, count, max, 1.0f / params.temperature);
    }

    // The k-th largest score. One pass with a buffer: whenever it is full, only the k largest in it stay, and what is
    // not above them need not be looked at again.
    float top_k_floor() const {
        const int64_t k = params.top_k, capacity = std::min(vocab, 2 * k + 1024);
        float floor = -kInfinity;
        int64_t size = 0;
        for (int64_t i = 0; i < vocab; ++i) {
            if (!(scores[i] > floor)) continue;
            work[size++] = scores[i];
            if (size < capacity) continue;
            std::nth_element(work, work + k - 1, work + size, std::greater<>());
            floor = work[k - 1];
            size = k;
        }
        if (size < k) return -kInfinity;
        std::nth_element(work, work + k - 1, work + size, std::greater<>());
        return work[k - 1];
    }

    // Moves those of work[begin, end) for which `first` holds to the front; returns where the others start. Without
    // branches, since the outcomes are random.
    template <typename F>
    int64_t partition(int64_t begin, int64_t end, const F& first) const {
        int64_t split = begin;
        for (int64_t i = begin; i < end; ++i) {
            const float x = work[i];
            work[i] = work[split];
            work[split] = x;
            split += first(x);
        }
        return split;
    }

    // The score at which the probabilities of tokens from `floor` up, added from the largest down, reach top_p.
    float top_p_floor(float floor) const {
        int64_t size = 0;
        double wanted = 0;
        if (floor > -kInfinity) {
            size = gather(floor);
            wanted = params.top_p * weight(work, size);
        } else {
            // The tokens near the maximum usually suffice; how near is tried.
            wanted = params.top_p * weight(scores, vocab);
            for (float reach : {8.0f, 16.0f, kInfinity}) {
                size = gather(max - reach * params.temperature);
                if (weight(work, size) >= wanted) break;
            }
        }
        // Quickselect by weight. `taken` is the weight of those above the ones still in question, work[begin, end).
        int64_t begin = 0, end = size;
        double taken = 0;
        float pivot = max;
        while (begin < end) {
            pivot = work[begin + (end - begin) / 2];
            const int64_t above = partition(begin, end, [&](float x) { return x > pivot; });
            const double weight_above = weight(work + begin, above - begin);
            if (taken + weight_above >= wanted) {
                end = above;
                continue;
            }
            const int64_t below = partition(above, end, [&](float x) { return x == pivot; });
            taken += weight_above + weight(work + above, below - above);
            if (taken >= wanted) break;
            begin = below;
        }
        return pivot;
    }

    float floor() const {
        float floor = -kInfinity;
        if (params.top_k > 0 && params.top_k < vocab) floor = top_k_floor();
        if (params.top_p < 1) floor = std::max(floor, top_p_floor(floor));
        if (params.min_p > 0) floor = std::max(floor, max + params.temperature * std::log(params.min_p));
        return floor;
    }

    float noisy(int64_t token) const {
        const Philox4 random = philox4x32_10(params.seed, static_cast<uint32_t>(token / 4),
                                             static_cast<uint32_t>(params.position));
        return (scores[token] - max) / params.temperature + gumbel(random.word[token % 4]);
    }

    // `likeliest`: the token of `max`. It opens the draw, since a high first value rules out most others.
    int64_t draw(int64_t likeliest) const {
        const float floor_score = floor();
        int64_t winner = likeliest;
        float best = noisy(likeliest);
        for (int64_t first = 0; first < vocab; first += kGumbelBlock) {
            const int64_t size = std::min(kGumbelBlock, vocab - first);
            uint64_t candidates =
                kernels.gumbel_candidates({scores + first, size, first, max, 1.0f / params.temperature, floor_score,
                                           best, params.seed, static_cast<uint32_t>(params.position)});
            for (; candidates != 0; candidates &= candidates - 1) {
                const int64_t token = first + std::countr_zero(candidates);
                const float value = noisy(token);
                if (value > best || (value == best && token < winner)) {
                    best = value;
                    winner = token;
                }
            }
        }
        return winner;
    }
};

// The repetition penalty (CTRL: Keskar et al. 2019): each token seen so far becomes less likely, once.
void penalize(const uint32_t* seen, float penalty, int64_t vocab, float* scores) {
    for (int64_t word = 0; word < (vocab + 31) / 32; ++word) {
        for (uint32_t bits = seen[word]; bits != 0; bits &= bits - 1) {
            float& score = scores[word * 32 + std::countr_zero(bits)];
            score = score < 0 ? score * penalty : score / penalty;
        }
    }
}

int64_t scratch_floats(int64_t vocab) { return 2 * pad_floats(vocab); }  // of one thread

}  // namespace

int64_t sample_scratch_bytes(const ModelConfig& model, const EngineConfig& engine) {
    const int64_t threads = std::min(num_threads(), engine.kv_cache.max_batch_size);
    return threads * scratch_floats(model.vocab_size) * static_cast<int64_t>(sizeof(float));
}

void CpuBackend::sample(const StepBatch& batch, int32_t vocab_size, const uint32_t* seen, float* logits,
                        SampledToken* out) {
    const LogitKernels& kernels = kernels_.logits;
    const int64_t floats = scratch_floats(vocab_size), seen_words = (vocab_size + 31) / 32;
    const int64_t threads = std::min(num_threads(), batch.num_logits);
    auto* memory = static_cast<float*>(scratch(threads * floats * static_cast<int64_t>(sizeof(float))));
    parallel_for(batch.num_logits, 1, [&](int thread, int64_t begin, int64_t end) {
        float* penalized = memory + thread * floats;
        for (int64_t i = begin; i < end; ++i) {
            const SampleParams& params = batch.sample_params[i];
            const float* raw = logits + i * vocab_size;
            const float* scores = raw;
            if (seen != nullptr && params.repetition_penalty != 1) {
                std::copy(raw, raw + vocab_size, penalized);
                penalize(seen + params.slot * seen_words, params.repetition_penalty, vocab_size, penalized);
                scores = penalized;
            }
            int64_t token = kernels.argmax(scores, vocab_size);
            const float max = scores[token];
            // Below FLT_MIN the reciprocal of the temperature overflows, and any difference of logits decides anyway.
            if (params.temperature >= FLT_MIN && std::isfinite(max)) {
                const RowSampler sampler{kernels, params, scores, vocab_size, max, penalized + pad_floats(vocab_size)};
                token = sampler.draw(token);
            }
            out[i] = {static_cast<int32_t>(token), std::numeric_limits<float>::quiet_NaN()};
            if (params.logprob) {
                const float raw_max = raw[kernels.argmax(raw, vocab_size)];
                const double log_sum = raw_max + std::log(kernels.sum_exp(raw, vocab_size, raw_max, 1.0f));
                out[i].logprob = static_cast<float>(raw[token] - log_sum);
            }
        }
    });
}

}  // namespace tinyllm
