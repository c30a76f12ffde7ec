#include "backends/cpu/sampling/sample_row.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "ops/philox.h"

namespace tinyllm::cpu {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kAllIds = std::numeric_limits<int64_t>::max();
constexpr Cutoff kKeepAll{-kInfinity, kAllIds};

// Moves those of [begin, end) for which `first` holds to the front; returns where the others start. Without branches,
// since the outcomes are random.
template <typename F>
float* partition(float* begin, float* end, const F& first) {
    float* split = begin;
    for (float* i = begin; i < end; ++i) {
        const float x = *i;
        *i = *split;
        *split = x;
        split += first(x);
    }
    return split;
}

}  // namespace

// Sum of exp((score - max) / temperature): probabilities, not yet divided by their sum.
double RowSampler::weight(const float* first, int64_t count) const {
    return kernels_.sum_exp(first, count, max_, 1.0f / params_.temperature);
}

// Copies the scores that the cutoff keeps to work_; returns how many they are.
int64_t RowSampler::gather(const Cutoff& cutoff) const {
    int64_t size = 0;
    for (int64_t i = 0; i < vocab_size_; ++i) {
        work_[size] = scores_[i];
        size += cutoff.keeps(scores_[i], i);
    }
    return size;
}

// Keeps all above `score` and the first `count` >= 1 that equal it.
Cutoff RowSampler::cutoff_at(float score, int64_t count) const {
    int64_t last_id = 0;
    for (int64_t i = 0; i < vocab_size_ && count > 0; ++i) {
        if (scores_[i] != score) continue;
        last_id = i;
        --count;
    }
    return {score, last_id};
}

// One pass with a buffer: whenever it is full, only the k largest in it stay, and what is not above them need not be
// looked at again.
Cutoff RowSampler::top_k() const {
    const int64_t k = params_.top_k, capacity = std::min(vocab_size_, 2 * k + 1024);
    float kth = -kInfinity;
    int64_t size = 0;
    const auto keep_largest = [&] {
        std::nth_element(work_, work_ + k - 1, work_ + size, std::greater<>());
        kth = work_[k - 1];
    };
    for (int64_t i = 0; i < vocab_size_; ++i) {
        if (!(scores_[i] > kth)) continue;
        work_[size++] = scores_[i];
        if (size < capacity) continue;
        keep_largest();
        size = k;
    }
    if (size < k) return kKeepAll;  // the others are -infinity
    keep_largest();
    return cutoff_at(kth, k - std::count_if(work_, work_ + k, [&](float x) { return x > kth; }));
}

// The highest rank at which the weights, added from the largest down, reach top_p of all that `before` keeps.
Cutoff RowSampler::top_p(const Cutoff& before) const {
    int64_t size = 0;
    double wanted = 0;
    if (before.score > -kInfinity) {
        size = gather(before);
        wanted = params_.top_p * weight(work_, size);
    } else {
        // The tokens near the maximum usually suffice; how near is tried.
        wanted = params_.top_p * weight(scores_, vocab_size_);
        for (float reach : {8.0f, 16.0f, kInfinity}) {
            size = gather({max_ - reach * params_.temperature, kAllIds});
            if (weight(work_, size) >= wanted) break;
        }
    }
    wanted = std::max(wanted, std::numeric_limits<double>::min());  // at least one token
    // Quickselect by weight. `taken` is the weight of those above the ones still in question, [begin, end).
    float *begin = work_, *end = work_ + size;
    double taken = 0;
    while (begin < end) {
        const float pivot = begin[(end - begin) / 2];
        float* equal = partition(begin, end, [&](float x) { return x > pivot; });
        const double above = taken + weight(begin, equal - begin);
        if (above >= wanted) {
            end = equal;
            continue;
        }
        float* below = partition(equal, end, [&](float x) { return x == pivot; });
        const double each = weight(&pivot, 1);
        const double needed = std::ceil((wanted - above) / each);
        if (needed <= static_cast<double>(below - equal)) return cutoff_at(pivot, static_cast<int64_t>(needed));
        taken = above + each * static_cast<double>(below - equal);
        begin = below;
    }
    return before;  // rounding: all of them together stayed below `wanted`
}

Cutoff RowSampler::cutoff() const {
    Cutoff cutoff = kKeepAll;
    if (params_.top_k > 0 && params_.top_k < vocab_size_) cutoff = top_k();
    if (params_.top_p < 1) cutoff = top_p(cutoff);
    if (params_.min_p > 0) {
        const float least = max_ + params_.temperature * std::log(params_.min_p);
        if (least > cutoff.score) cutoff = {least, kAllIds};
    }
    return cutoff;
}

// Differences to the maximum are divided, not the scores: that cannot overflow and rounds less.
float RowSampler::noisy(int64_t token) const {
    const Philox4 random =
        philox4x32_10(params_.seed, static_cast<uint32_t>(token / 4), static_cast<uint32_t>(params_.position));
    return (scores_[token] - max_) / params_.temperature + gumbel(random.word[token % 4]);
}

int64_t RowSampler::draw() const {
    const Cutoff kept = cutoff();
    // The likeliest token opens the draw: a high first value rules out most others.
    int64_t winner = likeliest_;
    float best = noisy(winner);
    for (int64_t first = 0; first < vocab_size_; first += kGumbelBlock) {
        const int64_t size = std::min(kGumbelBlock, vocab_size_ - first);
        uint64_t candidates =
            kernels_.gumbel_candidates({scores_ + first, size, first, max_, 1.0f / params_.temperature, kept.score,
                                        best, params_.seed, static_cast<uint32_t>(params_.position)});
        for (; candidates != 0; candidates &= candidates - 1) {
            const int64_t token = first + std::countr_zero(candidates);
            if (!kept.keeps(scores_[token], token)) continue;
            const float value = noisy(token);
            if (value > best || (value == best && token < winner)) {
                best = value;
                winner = token;
            }
        }
    }
    return winner;
}

}  // namespace tinyllm::cpu
