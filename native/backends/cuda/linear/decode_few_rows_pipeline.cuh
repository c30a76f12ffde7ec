// The weights of linear/decode_few_rows.cu on their way through shared memory.
//
// A stage holds kSlices units of one tile, unit first + w for warp w, and their scales. With compute capability 9.0 one
// warp that does nothing else asks the copy engine for whole stages; the warps that compute hand a stage back when they
// have read it. Before that, every warp copies its own units by cp.async.
#pragma once

#include "backends/cuda/device/tensor_copy.cuh"
#include "backends/cuda/linear/decode_weight.cuh"

namespace tinyllm::cuda {

constexpr int kMaxStages = 4;

// Where things lie in a block's shared memory: stages of units, of scales, and the barriers of the stages.
template <typename T, bool kQuantized>
struct FeedLayout {
    using Fragments = WeightFragments<T, kQuantized>;
    static constexpr int kDataBytes = kSlices * Fragments::kUnitBytes;

    // Groups of the scales of a stage, of all its units.
    static __host__ __device__ int32_t stage_groups(const DecodeWeight& weight) {
        return max(1, kSlices * kUnit >> weight.group_shift);
    }
    // With the copy engine units share groups and the target is 128-byte aligned; without, each unit has its own.
    static __host__ __device__ int32_t scale_bytes(const DecodeWeight& weight) {
        const int32_t rows = max(stage_groups(weight), kSlices * weight.groups_per_unit);
        return kQuantized ? rows * Fragments::kGroupBytes : 0;
    }
    static __host__ __device__ int32_t bytes(const DecodeWeight& weight, int stages) {
        return stages * (kDataBytes + scale_bytes(weight) + 2 * 8);
    }
};

template <typename T, bool kQuantized>
class WeightFeed {
public:
    using Layout = FeedLayout<T, kQuantized>;
    using Fragments = WeightFragments<T, kQuantized>;

    // `shared`: kUnitAlign-aligned, Layout::bytes(weight, stages) bytes.
    __device__ WeightFeed(const DecodeWeight& weight, unsigned char* shared, int stages)
        : weight_(weight), data_(shared), scales_(shared + stages * Layout::kDataBytes), stages_(stages) {
        barriers_ = shared_address(scales_ + stages * Layout::scale_bytes(weight));
    }

    // One thread calls, then a barrier of the block.
    __device__ void init() const {
        if constexpr (kHasCopyEngine) {
#pragma unroll 1
            for (int stage = 0; stage < stages_; ++stage) {
                init_barrier(full(stage), 1);
                init_barrier(free(stage), kSlices);
            }
            publish_barriers();
        }
    }

    // The warp that asks for the weights of all tiles of this block. weights: boxes of 16 rows x 128 bytes; scales:
    // boxes of 16 rows x stage_groups() groups.
    __device__ void produce(const CUtensorMap& weights, const CUtensorMap& scales) const {
        if (!elect_lane()) return;
        const uint32_t scale_box = kQuantized ? Layout::stage_groups(weight_) * Fragments::kGroupBytes : 0;
        int stage = 0;
        uint32_t parity = 1;  // all stages are free at first
#pragma unroll 1
        for (int32_t tile = blockIdx.x; tile < weight_.num_tiles; tile += gridDim.x) {
#pragma unroll 1
            for (int32_t first = 0; first < weight_.units; first += kSlices) {
                const uint32_t barrier = full(stage);
                wait_for_phase(free(stage), parity);
                const int32_t count = min(kSlices, weight_.units - first);
                arrive_expecting(barrier, count * Fragments::kUnitBytes + scale_box);
                if (kQuantized)
                    copy_box(shared_address(scales_ + stage * Layout::scale_bytes(weight_)), scales, tile * kTileRows,
                             first * kUnit >> weight_.group_shift, barrier);
                const uint32_t data = shared_address(data_ + stage * Layout::kDataBytes);
                const auto request = [&](int i) {
#pragma unroll
                    for (int box = 0; box < Fragments::kBoxes; ++box)
                        copy_box(data + i * Fragments::kUnitBytes + box * Fragments::kBoxBytes, weights,
                                 (first + i) * kUnit + box * 64, tile * kTileRows, barrier);
                };
                if (count == kSlices) {
#pragma unroll
                    for (int i = 0; i < kSlices; ++i) request(i);
                } else {
#pragma unroll 1
                    for (int i = 0; i < count; ++i) request(i);
                }
                if (++stage == stages_) {
                    stage = 0;
                    parity ^= 1;
                }
            }
        }
    }

private:
    __device__ uint32_t full(int stage) const { return barriers_ + stage * 16; }
    __device__ uint32_t free(int stage) const { return barriers_ + stage * 16 + 8; }

    template <typename, bool>
    friend class FeedReader;

    const DecodeWeight& weight_;
    unsigned char* data_;
    unsigned char* scales_;
    uint32_t barriers_;
    int stages_;
};

// One of the kSlices warps that read: it gets its units one after the other.
template <typename T, bool kQuantized>
class FeedReader {
public:
    using Feed = WeightFeed<T, kQuantized>;
    using Layout = FeedLayout<T, kQuantized>;
    using Fragments = WeightFragments<T, kQuantized>;

    __device__ FeedReader(const Feed& feed, int warp)
        : feed_(feed), warp_(warp), next_tile_(blockIdx.x), next_unit_(warp) {
        const int pair = Fragments::row_pair(threadIdx.x % kWarpSize / 4);
        const int group =
            kHasCopyEngine ? warp * kUnit >> feed.weight_.group_shift : warp * feed.weight_.groups_per_unit;
        data_ = feed.data_ + warp * Fragments::kUnitBytes;
        scales_ = feed.scales_ + group * Fragments::kGroupBytes + pair * 4;
        if constexpr (!kHasCopyEngine) {
#pragma unroll 1
            for (int stage = 0; stage < feed.stages_; ++stage) request(stage);
        }
    }

    // Waits for the next stage.
    __device__ void wait() const {
        if constexpr (kHasCopyEngine) {
            wait_for_phase(feed_.full(stage_), parity_);
        } else {
            wait_for_copies(feed_.stages_ - 1);
            __syncwarp();  // scales come by way of other lanes
        }
    }
    __device__ const Fragments& fragments() const { return fragments_; }
    // The warp's unit of the stage.
    __device__ const unsigned char* unit() const { return data_ + stage_ * Layout::kDataBytes; }
    // The lane's scales in group `group` of this unit, which must exist.
    __device__ __half2 scales(int group) const {
        return *reinterpret_cast<const __half2*>(scales_ + stage_ * Layout::scale_bytes(feed_.weight_) +
                                                 group * Fragments::kGroupBytes);
    }
    // Hands the stage back.
    __device__ void release() {
        __syncwarp();
        if constexpr (kHasCopyEngine) {
            if (threadIdx.x % kWarpSize == 0) arrive(feed_.free(stage_));
        } else {
            request(stage_);
        }
        if (++stage_ == feed_.stages_) {
            stage_ = 0;
            parity_ ^= 1;
        }
    }

private:
    __device__ void request(int stage) {
        const DecodeWeight& weight = feed_.weight_;
        if (next_tile_ < weight.num_tiles) {
            if (next_unit_ < weight.units)
                copy_unit(fragments_, weight, next_tile_, next_unit_,
                          shared_address(data_ + stage * Layout::kDataBytes),
                          shared_address(feed_.scales_ + stage * Layout::scale_bytes(weight) +
                                         warp_ * weight.groups_per_unit * Fragments::kGroupBytes));
            next_unit_ += kSlices;
            if (next_unit_ - warp_ >= weight.units) {
                next_unit_ = warp_;
                next_tile_ += gridDim.x;
            }
        }
        commit_copies();
    }

    const Feed& feed_;
    const int warp_;
    Fragments fragments_;
    const unsigned char* data_;
    const unsigned char* scales_;
    int stage_ = 0;
    uint32_t parity_ = 0;
    int32_t next_tile_, next_unit_;  // to request, without the copy engine
};

}  // namespace tinyllm::cuda
