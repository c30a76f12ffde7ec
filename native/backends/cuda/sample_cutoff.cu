// Top-k, top-p and min-p: the rank (sample_row.cuh) from which on tokens of a row are kept.
//
// In the order of rank, top-k keeps the first k tokens; top-p keeps tokens until their mass, exp(score - largest),
// reaches top_p of the mass that top-k left (Holtzman et al. 2019); min-p keeps scores of at least
// largest + log(min_p) (Nguyen et al. 2024). The first two ask the same: the highest rank at which a running sum over
// the tokens above, of 1 or of mass, reaches a target. A block finds it for a row:
//   1. A histogram of how far scores lie below the largest (count a bin: integer, so the order of atomics is no matter)
//      brackets the bins in which the sum can reach the target. For mass, a bin is known up to its width.
//   2. Tokens above the bracket are summed, each thread its own in ascending order; those inside are collected.
//   3. The collected are sorted by rank, scanned, and the first at which the sum reaches the target is the cutoff.
// A bracket of more tokens than shared memory holds (nearly equal scores all over) is bisected instead: exact, slow.
// All sums have a fixed order: a request draws the same tokens every time.
// One SM reads the row two to four times from L2: about 5 us a pass at 128k tokens.
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_scan.cuh>

#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/launch.cuh"
#include "backends/cuda/sample_row.cuh"

namespace tinyllm {

namespace {

constexpr int kThreads = 1024;
constexpr int kItems = 4;  // of a thread in the sort
constexpr int kCandidates = kThreads * kItems;
constexpr int kThreadBins = 2;
constexpr int kBins = kThreads * kThreadBins;
constexpr float kBinsPerUnit = 64;   // the bins reach kBins / kBinsPerUnit = 32 below the largest: a mass of 1e-14
constexpr float kMassSlack = 1e-4f;  // covers the rounding of sums of masses when bins are compared with a target

using Sort = cub::BlockRadixSort<uint64_t, kThreads, kItems>;
using Scan = cub::BlockScan<float, kThreads>;

enum class Measure { Count, Mass };

struct Shared {
    uint32_t histogram[kBins];
    union {
        uint64_t candidates[kCandidates];
        typename Sort::TempStorage sort;
        typename Scan::TempStorage scan;
    };
    float sums[kWarpSize];
    uint64_t ranks[kWarpSize];
    int32_t first_bin, last_bin;
    uint32_t num_candidates;
};

// What one block knows of its row. All methods are called by all threads together.
class CutoffFinder {
public:
    __device__ CutoffFinder(const SampleRow& row, float largest, Shared& shared)
        : row_(row), largest_(largest), shared_(shared) {
        for (int bin = threadIdx.x; bin < kBins; bin += kThreads) shared_.histogram[bin] = 0;
        __syncthreads();
        total_mass_ = sum_over_row([&](int32_t, float score) {
            const int32_t bin = bin_of(score);
            if (bin < kBins) atomicAdd(&shared_.histogram[bin], 1u);
            return mass(score);
        });
    }

    __device__ float total_mass() const { return total_mass_; }

    // Sum of the masses of all tokens of at least this rank.
    __device__ float mass_from(uint64_t cutoff) {
        return sum_over_row(
            [&](int32_t token, float score) { return rank_of(score, token) >= cutoff ? mass(score) : 0.0f; });
    }

    // The highest rank from which on the measure sums to `target` or more; 0 if all tokens together do not.
    __device__ uint64_t find(Measure measure, float target) {
        bracket(measure, target);
        const int32_t first = shared_.first_bin, last = shared_.last_bin;
        if (last == kBins) return bisect(measure, target);
        if (threadIdx.x == 0) shared_.num_candidates = 0;
        __syncthreads();
        const float above = sum_over_row([&](int32_t token, float score) {
            const int32_t bin = bin_of(score);
            if (bin < first) return weight(measure, score);
            if (bin <= last) {
                const uint32_t at = atomicAdd(&shared_.num_candidates, 1u);
                if (at < kCandidates) shared_.candidates[at] = rank_of(score, token);
            }
            return 0.0f;
        });
        if (shared_.num_candidates > kCandidates) return bisect(measure, target);
        return cutoff_of_candidates(measure, above, target);
    }

private:
    __device__ float mass(float score) const { return expf(score - largest_); }

    __device__ float weight(Measure measure, float score) const {
        return measure == Measure::Count ? 1.0f : mass(score);
    }

    // kBins: below all bins.
    __device__ int32_t bin_of(float score) const {
        const float distance = (largest_ - score) * kBinsPerUnit;
        return distance < kBins ? static_cast<int32_t>(distance) : kBins;
    }

    // Sum of f(token, score) over the row.
    template <typename F>
    __device__ float sum_over_row(F f) {
        float sum = 0;
        for (int32_t token = threadIdx.x; token < row_.vocab_size; token += kThreads)
            sum += f(token, row_.score(token));
        return block_reduce(sum, Sum{}, shared_.sums);
    }

    // Sets first_bin and last_bin to bins between which the sum certainly reaches the target; last_bin is kBins where
    // no bin is certain.
    __device__ void bracket(Measure measure, float target) {
        if (threadIdx.x == 0) shared_.first_bin = shared_.last_bin = kBins;
        float upper[kThreadBins], all = 0;  // sum up to and including a bin, at most; of all bins
        for (int i = 0; i < kThreadBins; ++i) {
            const int bin = threadIdx.x * kThreadBins + i;
            const float most = measure == Measure::Count ? 1.0f : expf(static_cast<float>(-bin) / kBinsPerUnit);
            upper[i] = static_cast<float>(shared_.histogram[bin]) * most;
        }
        __syncthreads();
        Scan(shared_.scan).InclusiveSum(upper, upper, all);
        for (int i = 0; i < kThreadBins; ++i) {
            const int bin = threadIdx.x * kThreadBins + i;
            bool may_reach, has_reached;
            if (measure == Measure::Count) {
                may_reach = has_reached = upper[i] >= target;
            } else {
                may_reach = upper[i] >= target * (1 - kMassSlack);
                has_reached = all - upper[i] <= total_mass_ - target - kMassSlack * total_mass_;
            }
            if (may_reach) atomicMin(&shared_.first_bin, bin);
            if (has_reached) atomicMin(&shared_.last_bin, bin);
        }
        __syncthreads();
    }

    __device__ uint64_t cutoff_of_candidates(Measure measure, float above, float target) {
        uint64_t rank[kItems];
        for (int i = 0; i < kItems; ++i) {
            const uint32_t at = threadIdx.x * kItems + i;
            rank[i] = at < shared_.num_candidates ? shared_.candidates[at] : 0;
        }
        __syncthreads();  // the sort's memory is that of the candidates
        Sort(shared_.sort).SortDescending(rank, 0, kRankBits);
        __syncthreads();
        float own[kItems], before[kItems];
        for (int i = 0; i < kItems; ++i) own[i] = rank[i] != 0 ? weight(measure, value_of(rank[i])) : 0.0f;
        Scan(shared_.scan).ExclusiveSum(own, before);
        uint64_t lowest_kept = UINT64_MAX;
        for (int i = 0; i < kItems; ++i)
            if (rank[i] != 0 && above + before[i] < target) lowest_kept = min(lowest_kept, rank[i]);
        return block_reduce(lowest_kept, Min{}, shared_.ranks);
    }

    __device__ uint64_t bisect(Measure measure, float target) {
        uint64_t reached = 0, not_reached = uint64_t{1} << kRankBits;
        while (not_reached - reached > 1) {
            const uint64_t middle = reached + (not_reached - reached) / 2;
            const float sum = sum_over_row([&](int32_t token, float score) {
                return rank_of(score, token) >= middle ? weight(measure, score) : 0.0f;
            });
            (sum >= target ? reached : not_reached) = middle;
        }
        return reached;
    }

    struct Min {
        __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a < b ? a : b; }
    };

    const SampleRow& row_;
    const float largest_;
    Shared& shared_;
    float total_mass_;
};

// PRECOND: grid (num_logits), block kThreads.
__global__ void __launch_bounds__(kThreads)
    sample_cutoff_kernel(const float* logits, const uint32_t* seen, int32_t vocab_size, const SampleParams* params,
                         SampleScratch* scratch) {
    __shared__ Shared shared;
    wait_for_predecessor();
    release_successor();
    const SampleRow row(logits, seen, vocab_size, params[blockIdx.x], blockIdx.x);
    uint64_t cutoff = 0;
    if (row.filtered()) {
        const float largest = largest_score(scratch[blockIdx.x]);
        const bool has_top_k = row.params.top_k > 0 && row.params.top_k < vocab_size;
        if (has_top_k || row.params.top_p < 1.0f) {
            CutoffFinder finder(row, largest, shared);
            if (has_top_k) cutoff = finder.find(Measure::Count, static_cast<float>(row.params.top_k));
            if (row.params.top_p < 1.0f) {
                const float left = has_top_k ? finder.mass_from(cutoff) : finder.total_mass();
                cutoff = max(cutoff, finder.find(Measure::Mass, row.params.top_p * left));
            }
        }
        if (row.params.min_p > 0.0f)
            cutoff = max(cutoff, rank_of(largest + logf(row.params.min_p), static_cast<int32_t>(kTokenMask)));
    }
    if (threadIdx.x == 0) scratch[blockIdx.x].cutoff = cutoff;
}

}  // namespace

void sample_cutoff_cuda(cudaStream_t cuda_stream, const StepBatch& batch, int32_t vocab_size, const uint32_t* seen,
                        const float* logits, SampleScratch* scratch) {
    launch_overlapped("launch of sample_cutoff_kernel", sample_cutoff_kernel,
                      {static_cast<unsigned>(batch.num_logits), kThreads}, cuda_stream, logits, seen, vocab_size,
                      batch.sample_params, scratch);
}

}  // namespace tinyllm
