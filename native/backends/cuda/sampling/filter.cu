// Top-k, top-p and min-p: the rank (sampling/row.cuh) from which on tokens of a row are kept.
//
// In the order of rank, top-k keeps the first k tokens; top-p keeps tokens until their mass, exp(score - largest),
// reaches top_p of the mass that top-k left (Holtzman et al. 2019); min-p keeps scores of at least
// largest + log(min_p) (Nguyen et al. 2024). The first two ask the same: the highest rank at which a running sum over
// the tokens above, of 1 or of mass, reaches a target. Two launches find it, each a pass over the vocabulary by
// kSampleBlocks blocks per row, the last of which computes the result:
//   1. A histogram of scores, counted in integers so that the order of atomics is no matter. It brackets the bins in
//      which the sum reaches the target: the mass of a bin is known up to its width.
//   2. Tokens above the bracket are summed; those inside are collected, sorted and scanned, and the token at which the
//      sum reaches the target is the cutoff.
// A bracket of more than kCandidates tokens (nearly equal scores all over) is bisected instead: exact, slow.
// Every sum has a fixed order: a request draws the same tokens every time.
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_scan.cuh>

#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/runtime/launch.h"
#include "backends/cuda/sampling/row.cuh"

namespace tinyllm::cuda {

namespace {

constexpr int kThreads = 1024;
constexpr int kStep = kSampleBlocks * kThreads;
constexpr int kThreadBins = kBins / kThreads;
constexpr int kThreadCandidates = kCandidates / kThreads;
constexpr int kFew = kThreads / 2;
// Covers the rounding of sums of masses when they are compared with a target, relative to the whole mass.
constexpr float kMassSlack = 2e-5f;

using Sort = cub::BlockRadixSort<uint64_t, kThreads, kThreadCandidates>;
using Scan = cub::BlockScan<float, kThreads>;

enum class Measure { Count, Mass };

struct Min {
    template <typename T>
    __device__ T operator()(T a, T b) const {
        return a < b ? a : b;
    }
};

// What top-k or top-p sums up. With both, top-k goes first.
__device__ Measure measure_of(const SampleRow& row) { return row.has_top_k() ? Measure::Count : Measure::Mass; }

__device__ float weight(Measure measure, float score, float largest) {
    return measure == Measure::Count ? 1.0f : expf(score - largest);
}

// kBins: below all bins.
__device__ int32_t bin_of(float score, float largest) {
    const float distance = (largest - score) * kBinsPerUnit;
    return distance < kBins ? static_cast<int32_t>(distance) : kBins;
}

__device__ float total_mass(const SampleScratch& scratch) {
    const int part = min(static_cast<int>(threadIdx.x % kWarpSize), kSampleBlocks - 1);
    return reduce_parts(__ldcg(&scratch.mass[part]), 0.0f, Sum{});
}

// Sets the bracket of a row from its histogram. All threads of a block of kThreads call.
__device__ void bracket(const SampleRow& row, SampleScratch& scratch) {
    __shared__ typename Scan::TempStorage scan;
    __shared__ int32_t bins[kWarpSize];
    const Measure measure = measure_of(row);
    // Sums up to and including a bin, and over all bins: of counts exactly; of masses at most, and at least narrowest
    // times as much.
    const float narrowest = expf(-1.0f / kBinsPerUnit);
    float upper[kThreadBins], all;
    for (int i = 0; i < kThreadBins; ++i) {
        const int bin = threadIdx.x * kThreadBins + i;
        const float most = measure == Measure::Count ? 1.0f : expf(static_cast<float>(-bin) / kBinsPerUnit);
        upper[i] = static_cast<float>(__ldcg(&scratch.histogram[bin])) * most;
    }
    Scan(scan).InclusiveSum(upper, upper, all);
    const float whole = total_mass(scratch);
    const float target = measure == Measure::Count ? static_cast<float>(row.params.top_k) : row.params.top_p * whole;
    int32_t first_bin = kBins, last_bin = kBins;
    for (int i = 0; i < kThreadBins; ++i) {
        const int bin = threadIdx.x * kThreadBins + i;
        bool may_reach, has_reached;
        if (measure == Measure::Count) {
            may_reach = has_reached = upper[i] >= target;
        } else {
            // What lies above is the whole less what lies below, and of the two the smaller is known better.
            const float below = all - upper[i];
            may_reach = min(upper[i], whole - below * narrowest) >= target - kMassSlack * whole;
            has_reached = whole - below >= target + kMassSlack * whole;
        }
        if (may_reach) first_bin = min(first_bin, bin);
        if (has_reached) last_bin = min(last_bin, bin);
    }
    first_bin = block_reduce(first_bin, Min{}, bins);
    last_bin = block_reduce(last_bin, Min{}, bins);
    if (threadIdx.x != 0) return;
    // With top-p to follow, all that top-k keeps is collected, so that both are found in one sort.
    scratch.first_bin = row.has_top_k() && row.has_top_p() ? 0 : first_bin;
    scratch.last_bin = last_bin;
    scratch.num_candidates = 0;
}

// PRECOND: grid (kSampleBlocks, num_logits), block kThreads; the row's histogram is zero.
__global__ void __launch_bounds__(kThreads)
    sample_histogram_kernel(const float* logits, const uint32_t* seen, int32_t vocab_size, const SampleParams* params,
                            SampleScratch* scratch, uint32_t* counters) {
    __shared__ uint32_t histogram[kBins];
    __shared__ float sums[kWarpSize];
    wait_for_predecessor();
    release_successor();
    const SampleRow row(logits, seen, vocab_size, params[blockIdx.y], blockIdx.y);
    if (!row.has_top_k() && !row.has_top_p()) return;
    SampleScratch& mine = scratch[blockIdx.y];
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads) histogram[bin] = 0;
    __syncthreads();
    const float largest = largest_score(mine);
    float mass = 0;
    row.for_each_score(blockIdx.x * kThreads + threadIdx.x, kStep, [&](int32_t, float score) {
        const int32_t bin = bin_of(score, largest);
        if (bin < kBins) atomicAdd(&histogram[bin], 1u);
        mass += expf(score - largest);
    });
    mass = block_reduce(mass, Sum{}, sums);
    if (threadIdx.x == 0) mine.mass[blockIdx.x] = mass;
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads)
        if (histogram[bin] != 0) atomicAdd(&mine.histogram[bin], histogram[bin]);
    if (is_last_of_row(&counters[blockIdx.y])) bracket(row, mine);
}

// Sum of a measure over all tokens of at least this rank. One block.
__device__ float sum_from(const SampleRow& row, Measure measure, float largest, uint64_t cutoff, float* shared) {
    float sum = 0;
    row.for_each_score(threadIdx.x, kThreads, [&](int32_t token, float score) {
        if (rank_of(score, token) >= cutoff) sum += weight(measure, score, largest);
    });
    return block_reduce(sum, Sum{}, shared);
}

// The highest rank at which the sum of a measure over all tokens from it on reaches `target`, by bisection. One block.
__device__ uint64_t bisect(const SampleRow& row, Measure measure, float largest, float target, float* shared) {
    uint64_t reached = 0, not_reached = uint64_t{1} << kRankBits;
    while (not_reached - reached > 1) {
        const uint64_t middle = reached + (not_reached - reached) / 2;
        const float sum = sum_from(row, measure, largest, middle, shared);
        (sum >= target ? reached : not_reached) = middle;
    }
    return reached;
}

// Top-k, then top-p, each bisected.
__device__ uint64_t bisected_cutoff(const SampleRow& row, float largest, float whole, float* shared) {
    uint64_t cutoff = 0;
    float left = whole;
    if (row.has_top_k()) {
        cutoff = bisect(row, Measure::Count, largest, static_cast<float>(row.params.top_k), shared);
        left = sum_from(row, Measure::Mass, largest, cutoff, shared);
    }
    if (!row.has_top_p()) return cutoff;
    return max(cutoff, bisect(row, Measure::Mass, largest, row.params.top_p * left, shared));
}

struct CutoffStorage {
    union {
        typename Sort::TempStorage sort;
        typename Scan::TempStorage scan;
        struct {
            uint64_t unsorted[kFew];
            uint64_t sorted[kFew];
        } few;
    };
    uint64_t ranks[kWarpSize];
};

// Candidates in descending order, kThreadCandidates per thread, zeros after the last. All threads call.
__device__ void load_sorted(const SampleScratch& scratch, uint32_t num_candidates, uint64_t (&rank)[kThreadCandidates],
                            CutoffStorage& shared) {
    if (num_candidates > kFew) {
        for (int i = 0; i < kThreadCandidates; ++i) {
            const uint32_t at = threadIdx.x * kThreadCandidates + i;
            rank[i] = at < num_candidates ? __ldcg(&scratch.candidates[at]) : 0;
        }
        Sort(shared.sort).SortDescending(rank, 0, kRankBits);
    } else {
        // A few are placed faster by counting the higher ones.
        const uint32_t mine = threadIdx.x;
        if (mine < num_candidates) shared.few.unsorted[mine] = __ldcg(&scratch.candidates[mine]);
        __syncthreads();
        if (mine < num_candidates) {
            int higher = 0;
            for (uint32_t at = 0; at < num_candidates; ++at)
                higher += shared.few.unsorted[at] > shared.few.unsorted[mine];
            shared.few.sorted[higher] = shared.few.unsorted[mine];
        }
        __syncthreads();
        for (int i = 0; i < kThreadCandidates; ++i) {
            const uint32_t at = threadIdx.x * kThreadCandidates + i;
            rank[i] = at < num_candidates ? shared.few.sorted[at] : 0;
        }
    }
    __syncthreads();
}

// Lowest rank of the sorted candidates before which the sum, begun with `above`, has not reached `target`. `total`
// receives the sum up to it.
__device__ uint64_t scan_candidates(const uint64_t (&rank)[kThreadCandidates], Measure measure, float largest,
                                    float above, float target, uint64_t from, CutoffStorage& shared, float& total) {
    float own[kThreadCandidates], before[kThreadCandidates];
    for (int i = 0; i < kThreadCandidates; ++i)
        own[i] = rank[i] >= from ? weight(measure, value_of(rank[i]), largest) : 0.0f;
    Scan(shared.scan).ExclusiveSum(own, before, total);
    uint64_t lowest = UINT64_MAX;
    for (int i = 0; i < kThreadCandidates; ++i)
        if (rank[i] >= from && above + before[i] < target) lowest = min(lowest, rank[i]);
    return block_reduce(lowest, Min{}, shared.ranks);
}

// Cutoff of top-k and top-p from the collected candidates. All threads of a block of kThreads call.
__device__ uint64_t cutoff_of_candidates(const SampleRow& row, const SampleScratch& scratch, float largest, float whole,
                                         uint32_t num_candidates, CutoffStorage& shared) {
    uint64_t rank[kThreadCandidates];
    load_sorted(scratch, num_candidates, rank, shared);
    const int part = min(static_cast<int>(threadIdx.x % kWarpSize), kSampleBlocks - 1);
    const float above = reduce_parts(__ldcg(&scratch.weight[part]), 0.0f, Sum{});
    uint64_t cutoff = 1;  // every candidate, but not the zeros that fill up
    float total = 0;
    if (row.has_top_k())
        cutoff = scan_candidates(rank, Measure::Count, largest, above, static_cast<float>(row.params.top_k), cutoff,
                                 shared, total);
    if (!row.has_top_p()) return cutoff;
    float left = whole;
    if (row.has_top_k()) scan_candidates(rank, Measure::Mass, largest, 0, 0, cutoff, shared, left);
    const float mass_above = row.has_top_k() ? 0.0f : above;
    return scan_candidates(rank, Measure::Mass, largest, mass_above, row.params.top_p * left, cutoff, shared, total);
}

// PRECOND: grid (kSampleBlocks, num_logits), block kThreads; follows sample_histogram_kernel. Writes the cutoff of
// every row.
__global__ void __launch_bounds__(kThreads)
    sample_cutoff_kernel(const float* logits, const uint32_t* seen, int32_t vocab_size, const SampleParams* params,
                         SampleScratch* scratch, uint32_t* counters) {
    __shared__ float sums[kWarpSize];
    __shared__ CutoffStorage storage;
    wait_for_predecessor();
    release_successor();
    const SampleRow row(logits, seen, vocab_size, params[blockIdx.y], blockIdx.y);
    SampleScratch& mine = scratch[blockIdx.y];
    const bool has_min_p = row.params.temperature > 0 && row.params.min_p > 0,
               sums_up = row.has_top_k() || row.has_top_p();
    if (!sums_up && (blockIdx.x > 0 || threadIdx.x >= kWarpSize)) return;
    const float largest = has_min_p || sums_up ? largest_score(mine) : 0;
    uint64_t min_p_cutoff = 0;
    if (has_min_p) min_p_cutoff = rank_of(largest + logf(row.params.min_p), static_cast<int32_t>(kTokenMask));
    if (!sums_up) {
        if (threadIdx.x == 0) mine.cutoff = min_p_cutoff;
        return;
    }
    const int32_t first = mine.first_bin, last = mine.last_bin;
    const Measure measure = measure_of(row);
    float above = 0;
    const auto collect = [&](int32_t token, float score) {
        const int32_t bin = bin_of(score, largest);
        if (bin < first) {
            above += weight(measure, score, largest);
        } else if (bin <= last) {
            const uint32_t at = atomicAdd(&mine.num_candidates, 1u);
            if (at < kCandidates) mine.candidates[at] = rank_of(score, token);
        }
    };
    if (last < kBins) row.for_each_score(blockIdx.x * kThreads + threadIdx.x, kStep, collect);
    above = block_reduce(above, Sum{}, sums);
    if (threadIdx.x == 0) mine.weight[blockIdx.x] = above;
    if (!is_last_of_row(&counters[blockIdx.y])) return;
    const float whole = total_mass(mine);
    const uint32_t num_candidates = __ldcg(&mine.num_candidates);
    const uint64_t cutoff = last == kBins || num_candidates > kCandidates
                                ? bisected_cutoff(row, largest, whole, sums)
                                : cutoff_of_candidates(row, mine, largest, whole, num_candidates, storage);
    if (threadIdx.x == 0) mine.cutoff = max(cutoff, min_p_cutoff);
}

}  // namespace

void sample_filter(cudaStream_t cuda_stream, const StepBatch& batch, int32_t vocab_size, const uint32_t* seen,
                   const float* logits, SampleScratch* scratch, uint32_t* counters) {
    const LaunchShape shape{dim3(kSampleBlocks, batch.num_logits), kThreads};
    launch_overlapped("launch of sample_histogram_kernel", sample_histogram_kernel, shape, cuda_stream, logits, seen,
                      vocab_size, batch.sample_params, scratch, counters);
    launch_overlapped("launch of sample_cutoff_kernel", sample_cutoff_kernel, shape, cuda_stream, logits, seen,
                      vocab_size, batch.sample_params, scratch, counters);
}

}  // namespace tinyllm::cuda
