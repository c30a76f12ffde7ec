// Sampling: the token of a row is argmax_t (score_t + g_t) over the tokens that pass the filters, with score = logit
// after penalty and temperature and g the Gumbel noise of runtime/sampling.h; greedy rows have no noise. Optionally its
// log-softmax over the raw logits.
//
//   logits: float [num_logits, vocab_size]; out: SampledToken [num_logits]
// Drawing by argmax turns sampling into one pass over the logits: no sort, no prefix sum, no random state, and the
// kSampleBlocks blocks of a row join in any order with the same result. A step whose rows are all plain greedy is one
// launch; others are three: partial maxima and sums, the filters' cutoff (sample_cutoff.cu), the draw.
// Reads the logits once (greedy) or three times, mostly from L2: bound by launches and latency, not by bandwidth.
#include <algorithm>

#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/launch.cuh"
#include "backends/cuda/ops.h"
#include "backends/cuda/sample_row.cuh"
#include "runtime/sampling.h"

namespace tinyllm {

namespace {

constexpr int kThreads = 256;
constexpr int kNoiseTokens = 4;  // tokens that share one Philox counter

constexpr int32_t kStep = kSampleBlocks * kThreads;

// First token, or group of tokens, of a thread; its next ones follow at intervals of kStep.
__device__ int32_t first_of_thread() { return static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x); }

// Writes SampleScratch::partial of the rows that will need it. PRECOND: grid (kSampleBlocks, num_logits), block
// kThreads.
__global__ void sample_partial_kernel(const float* logits, const uint32_t* seen, int32_t vocab_size,
                                      const SampleParams* params, SampleScratch* scratch) {
    __shared__ float shared[kWarpSize];
    wait_for_predecessor();
    release_successor();
    const SampleRow row(logits, seen, vocab_size, params[blockIdx.y], blockIdx.y);
    if (row.params.temperature <= 0 && row.params.logprob == 0) return;
    float score = -INFINITY, logit = -INFINITY, sum = 0;
    for (int32_t token = first_of_thread(); token < vocab_size; token += kStep) {
        score = fmaxf(score, row.score(token));
        const float next = fmaxf(logit, row.logits[token]);
        if (next > -INFINITY) sum = sum * expf(logit - next) + expf(row.logits[token] - next);
        logit = next;
    }
    score = block_reduce(score, Max{}, shared);
    const float largest = block_reduce(logit, Max{}, shared);
    sum = block_reduce(logit > -INFINITY ? sum * expf(logit - largest) : 0.0f, Sum{}, shared);
    if (threadIdx.x == 0) scratch[blockIdx.y].partial[blockIdx.x] = {score, largest, sum};
}

// Rank of the best token among this thread's.
template <bool kGreedy>
__device__ uint64_t best_of_thread(const SampleRow& row, const SampleScratch& scratch) {
    uint64_t best = 0;
    if (kGreedy || row.params.temperature <= 0) {
        for (int32_t token = first_of_thread(); token < row.vocab_size; token += kStep)
            best = max(best, rank_of(row.score(token), token));
        return best;
    }
    // The best score survives every filter and gets at least the least noise, so tokens this far below cannot win.
    const float hopeless = largest_score(scratch) + kGumbelMin - kGumbelMax;
    const uint64_t cutoff = scratch.cutoff;
    for (int32_t group = first_of_thread(); group * kNoiseTokens < row.vocab_size; group += kStep) {
        float score[kNoiseTokens];
        bool possible = false;
#pragma unroll
        for (int i = 0; i < kNoiseTokens; ++i) {
            const int32_t token = group * kNoiseTokens + i;
            score[i] = token < row.vocab_size ? row.score(token) : -INFINITY;
            if (score[i] < hopeless || rank_of(score[i], token) < cutoff) score[i] = -INFINITY;
            possible |= score[i] > -INFINITY;
        }
        if (!possible) continue;
        const Philox4 random = philox4x32_10(row.params.seed, group, row.params.position);
#pragma unroll
        for (int i = 0; i < kNoiseTokens; ++i)
            if (score[i] > -INFINITY)
                best = max(best, rank_of(score[i] + gumbel(random.word[i]), group * kNoiseTokens + i));
    }
    return best;
}

// Log-softmax of the raw logits at `token`. A whole warp calls.
__device__ float log_softmax_at(const SampleRow& row, const SampleScratch& scratch, int32_t token) {
    const int lane = threadIdx.x % kWarpSize;
    const bool has_part = lane < kSampleBlocks;
    const float logit = has_part ? scratch.partial[lane].largest_logit : -INFINITY;
    const float largest = warp_reduce(logit, Max{});
    const float part = logit > -INFINITY ? scratch.partial[lane].logit_sum * expf(logit - largest) : 0.0f;
    return row.logits[token] - largest - logf(warp_reduce(part, Sum{}));
}

// PRECOND: grid (kSampleBlocks, num_logits), block kThreads; counters[num_logits] are zero, and are so again at the
// end.
template <bool kGreedy>
__global__ void sample_draw_kernel(const float* logits, const uint32_t* seen, int32_t vocab_size,
                                   const SampleParams* params, SampleScratch* scratch, uint32_t* counters,
                                   SampledToken* out) {
    __shared__ uint64_t shared[kWarpSize];
    __shared__ bool is_last;
    wait_for_predecessor();
    release_successor();
    const int32_t index = blockIdx.y, lane = threadIdx.x % kWarpSize;
    const SampleRow row(logits, kGreedy ? nullptr : seen, vocab_size, kGreedy ? SampleParams{} : params[index], index);
    SampleScratch& mine = scratch[index];
    const uint64_t best = block_reduce(best_of_thread<kGreedy>(row, mine), Max{}, shared);
    if (threadIdx.x == 0) {
        mine.best[blockIdx.x] = best;
        __threadfence();
        is_last = atomicAdd(&counters[index], 1u) == kSampleBlocks - 1;
    }
    __syncthreads();
    if (!is_last || threadIdx.x >= kWarpSize) return;
    __threadfence();
    const uint64_t winner = warp_reduce(lane < kSampleBlocks ? __ldcg(&mine.best[lane]) : 0, Max{});
    const int32_t token = min(token_of(winner), vocab_size - 1);
    float logprob = NAN;
    if (!kGreedy && row.params.logprob != 0) logprob = log_softmax_at(row, mine, token);
    if (lane == 0) {
        out[index] = {token, logprob};
        counters[index] = 0;
    }
}

}  // namespace

void sample_cuda(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch, int32_t vocab_size,
                 const uint32_t* seen, const float* logits, SampledToken* out) {
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
    sample_cutoff_cuda(cuda_stream, batch, vocab_size, seen, logits, rows);
    launch_overlapped("launch of sample_draw_kernel", sample_draw_kernel<false>, shape, cuda_stream, logits, seen,
                      vocab_size, batch.sample_params, rows, scratch.counters, out);
}

int64_t sample_scratch_bytes(const EngineConfig& engine) {
    return static_cast<int64_t>(sizeof(SampleScratch)) * engine.kv_cache.max_batch_size;
}

}  // namespace tinyllm
