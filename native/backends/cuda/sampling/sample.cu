// Sampling: the token of a row is argmax_t (score_t + g_t) over the tokens that pass the filters, with score = logit
// after penalty and temperature and g the Gumbel noise of ops/philox.h; greedy rows have no noise. Optionally its
// log-softmax over the raw logits.
//
//   logits: float [num_logits, vocab_size]; out: SampledToken [num_logits]
// Drawing by argmax turns sampling into one pass over the logits: no sort, no prefix sum, no random state, and the
// results of the kSampleBlocks blocks of a row can be merged in any order. A step whose rows are all plain greedy is
// one launch; others are four: partial maxima and sums, the filters' cutoff (sampling/filter.cu, two), the draw. Reads
// the logits once (greedy) to four times, mostly from L2: bound by launches and latency, not by bandwidth.
#include <algorithm>

#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/rows/rows.h"
#include "backends/cuda/runtime/launch.h"
#include "backends/cuda/sampling/row.cuh"
#include "ops/philox.h"

namespace tinyllm::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int32_t kStep = kSampleBlocks * kThreads;

// First group of tokens (or bin) of a thread; its next ones follow at intervals of kStep.
__device__ int32_t first_of_thread() { return static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x); }

// Writes SampleScratch::partial and clears the histogram of the rows that will need them.
// PRECOND: grid (kSampleBlocks, num_logits), block kThreads.
__global__ void sample_partial_kernel(const float* logits, const uint32_t* seen, int32_t vocab_size,
                                      const SampleParams* params, SampleScratch* scratch) {
    __shared__ float shared[kWarpSize];
    wait_for_predecessor();
    release_successor();
    const SampleRow row(logits, seen, vocab_size, params[blockIdx.y], blockIdx.y);
    if (row.params.temperature <= 0 && row.params.logprobs == 0) return;
    SampleScratch& mine = scratch[blockIdx.y];
    for (int bin = first_of_thread(); bin < kBins; bin += kStep) mine.histogram[bin] = 0;
    float value = -INFINITY, logit = -INFINITY, sum = 0;
    bool sound = true;
#pragma unroll 4
    for (int32_t group = first_of_thread(); group < row.num_groups(); group += kStep) {
        const TokenValues values = row.penalized(group);
        for (int i = 0; i < kGroup; ++i) {
            value = fmaxf(value, values.element[i]);
            sound &= values.element[i] < INFINITY;
        }
    }
    const float score = row.score(block_reduce(value, Max{}, shared));
    if (row.params.logprobs != 0) {
        for (int32_t group = first_of_thread(); group < row.num_groups(); group += kStep) {
            const TokenValues values = row.raw(group);
            float next = logit;
            for (int i = 0; i < kGroup; ++i) next = fmaxf(next, values.element[i]);
            if (next == -INFINITY) continue;
            sum *= expf(logit - next);
            for (int i = 0; i < kGroup; ++i) sum += expf(values.element[i] - next);
            logit = next;
        }
        const float largest = block_reduce(logit, Max{}, shared);
        sum = block_reduce(logit > -INFINITY ? sum * expf(logit - largest) : 0.0f, Sum{}, shared);
        logit = largest;
    }
    if (__syncthreads_or(!sound)) logit = NAN;  // says to sample_draw_kernel that the row has no answer
    if (threadIdx.x == 0) mine.partial[blockIdx.x] = {score, logit, sum};
}

// Rank of the best token among this thread's.
template <bool kGreedy>
__device__ uint64_t best_of_thread(const SampleRow& row, const SampleScratch& scratch) {
    uint64_t best = 0;
    if (kGreedy || row.params.temperature <= 0) {
        // NaN of either sign ranks above all numbers, so that it is seen in the end.
        row.for_each_score(first_of_thread(), kStep, [&](int32_t token, float score) {
            best = max(best, rank_of(isnan(score) ? NAN : score, token));
        });
        return best;
    }
    // The best score survives every filter and gets at least the least noise, so tokens this far below cannot win. They
    // are nearly all tokens, so the test comes before the division by the temperature and leaves a margin for it.
    const float hopeless = largest_score(scratch) + kGumbelMin - kGumbelMax;
    const float hopeless_value = (hopeless - 1e-5f * fabsf(hopeless)) * row.params.temperature;
    const uint64_t cutoff = scratch.cutoff;
#pragma unroll 4
    for (int32_t group = first_of_thread(); group < row.num_groups(); group += kStep) {
        const TokenValues values = row.penalized(group);
        bool possible = false;
        for (int i = 0; i < kGroup; ++i) possible |= values.element[i] >= hopeless_value;
        if (!possible) continue;
        const Philox4 random = philox4x32_10(row.params.seed, group, row.params.position);
        for (int i = 0; i < kGroup; ++i) {
            const int32_t token = group * kGroup + i;
            const float score = row.score(values.element[i]);
            if (score > -INFINITY && rank_of(score, token) >= cutoff)
                best = max(best, rank_of(score + gumbel(random.word[i]), token));
        }
    }
    return best;
}

// Log-softmax of the raw logits at `token`. A whole warp calls.
__device__ float log_softmax_at(const SampleRow& row, const SampleScratch& scratch, int32_t token) {
    const int part = min(static_cast<int>(threadIdx.x % kWarpSize), kSampleBlocks - 1);
    const float logit = scratch.partial[part].largest_logit;
    const float largest = reduce_parts(logit, -INFINITY, Max{});
    const float sum = logit > -INFINITY ? scratch.partial[part].logit_sum * expf(logit - largest) : 0.0f;
    return row.logits[token] - largest - logf(reduce_parts(sum, 0.0f, Sum{}));
}

// Whether the row of `winner` has a NaN or an infinity above all numbers, or nothing but -infinity. A whole warp calls.
template <bool kGreedy>
__device__ bool has_no_answer(const SampleRow& row, const SampleScratch& scratch, uint64_t winner) {
    // Scores may be infinite where the temperature is tiny, so for drawn rows the logits are what counts.
    if (kGreedy || row.params.temperature <= 0) return !(fabsf(value_of(winner)) < INFINITY);
    const int part = min(static_cast<int>(threadIdx.x % kWarpSize), kSampleBlocks - 1);
    return winner == 0 || __any_sync(~0u, isnan(__ldcg(&scratch.partial[part].largest_logit)));
}

// PRECOND: grid (kSampleBlocks, num_logits), block kThreads; counters[num_logits] are zero, and are so again at the
// end.
template <bool kGreedy>
__global__ void sample_draw_kernel(const float* logits, const uint32_t* seen, int32_t vocab_size,
                                   const SampleParams* params, SampleScratch* scratch, uint32_t* counters,
                                   SampledToken* out) {
    __shared__ uint64_t shared[kWarpSize];
    wait_for_predecessor();
    release_successor();
    const int32_t index = blockIdx.y;
    const SampleRow row(logits, kGreedy ? nullptr : seen, vocab_size, kGreedy ? SampleParams{} : params[index], index);
    SampleScratch& mine = scratch[index];
    const uint64_t best = block_reduce(best_of_thread<kGreedy>(row, mine), Max{}, shared);
    if (threadIdx.x == 0) mine.best[blockIdx.x] = best;
    if (!is_last_of_row(&counters[index]) || threadIdx.x >= kWarpSize) return;
    const int part = min(static_cast<int>(threadIdx.x), kSampleBlocks - 1);
    const uint64_t winner = reduce_parts(__ldcg(&mine.best[part]), uint64_t{0}, Max{});
    const bool none = has_no_answer<kGreedy>(row, mine, winner);
    const int32_t token = none ? kNoToken : token_of(winner);
    float logprob = NAN;
    if (!kGreedy && row.params.logprobs != 0 && !none) logprob = log_softmax_at(row, mine, token);
    if (threadIdx.x == 0) out[index] = {token, logprob};
}

}  // namespace

void sample(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch, int32_t vocab_size, const uint32_t* seen,
            const float* logits, SampledToken* out) {
    if (batch.num_logits == 0) return;
    if (vocab_size > static_cast<int32_t>(kTokenMask))
        fail(TL_STATUS_CONFIG, "vocab_size ", vocab_size, " is too large for sampling on a GPU; at most ", kTokenMask);
    TL_CHECK(batch.num_logits <= kScratchCounters);
    TL_CHECK(static_cast<int64_t>(sizeof(SampleScratch)) * batch.num_logits <= scratch.bytes);
    auto* rows = static_cast<SampleScratch*>(scratch.data);
    const LaunchShape shape{dim3(kSampleBlocks, batch.num_logits), kThreads};
    if (batch.greedy) {
        launch_overlapped("launch of sample_draw_kernel", sample_draw_kernel<true>, shape, cuda_stream, logits, nullptr,
                          vocab_size, nullptr, rows, scratch.counters, out);
        return;
    }
    launch_overlapped("launch of sample_partial_kernel", sample_partial_kernel, shape, cuda_stream, logits, seen,
                      vocab_size, batch.sample_params, rows);
    sample_filter(cuda_stream, batch, vocab_size, seen, logits, rows, scratch.counters);
    launch_overlapped("launch of sample_draw_kernel", sample_draw_kernel<false>, shape, cuda_stream, logits, seen,
                      vocab_size, batch.sample_params, rows, scratch.counters, out);
}

}  // namespace tinyllm::cuda
