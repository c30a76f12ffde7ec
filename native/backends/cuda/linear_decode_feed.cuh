// The weights of linear_decode_few.cu and decode_layers.cu on their way through shared memory.
//
// A stage holds kSlices units of one tile, unit first + w for warp w, and their scales. With compute capability 9.0 one
// warp that does nothing else asks the copy engine for whole stages; the warps that compute hand a stage back when they
// have read it. Before that, every warp copies its own units by cp.async. Several weights may go through one after the
// other.
#pragma once

#include "backends/cuda/device/tensor_copy.cuh"
#include "backends/cuda/linear_decode_weight.cuh"

namespace tinyllm {

constexpr int kMaxStages = 4;  // without the copy engine: as many groups of copies as a thread can wait for

// Which stage comes next, and the parity of its barriers' phase.
struct FeedPlace {
    int stage = 0;
    uint32_t parity = 0;

    __device__ void advance(int stages) {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

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
    // Of a feed whose stages have scale_bytes of scales each.
    static __host__ __device__ int32_t bytes(int stages, int32_t scale_bytes) {
        return stages * (kDataBytes + scale_bytes + 2 * 8);
    }
};

template <typename T, bool kQuantized>
class WeightFeed {
public:
    using Layout = FeedLayout<T, kQuantized>;
    using Fragments = WeightFragments<T, kQuantized>;

    // `shared`: kUnitAlign-aligned, Layout::bytes(stages, scale_bytes) bytes. scale_bytes: Layout::scale_bytes() of the
    // weight that needs most. in_flight: stages that may be on their way at the same time.
    __device__ WeightFeed(unsigned char* shared, int stages, int32_t scale_bytes, int in_flight)
        : data_(shared),
          scales_(shared + stages * Layout::kDataBytes),
          stages_(stages),
          in_flight_(in_flight),
          scale_bytes_(scale_bytes) {
        barriers_ = shared_address(scales_ + stages * scale_bytes);
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

    // Asks for tiles first_tile, first_tile + gridDim.x, .. of a weight; one lane of the producing warp calls. `place`
    // goes on from weight to weight. weights: boxes of 16 rows x 128 bytes; scales: of 16 rows x stage_groups() groups.
    __device__ void produce(const DecodeWeight& weight, const CUtensorMap& weights, const CUtensorMap& scales,
                            int32_t first_tile, FeedPlace& place) const {
        const uint32_t scale_box = kQuantized ? Layout::stage_groups(weight) * Fragments::kGroupBytes : 0;
#pragma unroll 1
        for (int32_t tile = first_tile; tile < weight.num_tiles; tile += gridDim.x) {
#pragma unroll 1
            for (int32_t first = 0; first < weight.units; first += kSlices) {
                const uint32_t barrier = full(place.stage);
                wait_until_free(place);
                wait_for_flight(place);
                const int32_t count = min(kSlices, weight.units - first);
                arrive_expecting(barrier, count * Fragments::kUnitBytes + scale_box);
                if (kQuantized)
                    copy_box(shared_address(scales_ + place.stage * scale_bytes_), scales, tile * kTileRows,
                             first * kUnit >> weight.group_shift, barrier);
                const uint32_t data = shared_address(data_ + place.stage * Layout::kDataBytes);
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
                place.advance(stages_);
            }
        }
    }

    // Leaves the next stage to the readers as memory for other things (FeedReader::borrow()).
    __device__ void lend(FeedPlace& place) const {
        wait_until_free(place);
        arrive(full(place.stage));
        place.advance(stages_);
    }

private:
    __device__ uint32_t full(int stage) const { return barriers_ + stage * 16; }
    __device__ uint32_t free(int stage) const { return barriers_ + stage * 16 + 8; }
    // All stages are free at first.
    __device__ void wait_until_free(const FeedPlace& place) const {
        wait_for_phase(free(place.stage), place.parity ^ 1);
    }

    // Until of the stages before this one at most in_flight_ - 1 are still on their way.
    __device__ void wait_for_flight(const FeedPlace& place) const {
        if (in_flight_ == stages_) return;
        const int before = place.stage - in_flight_;
        wait_for_phase(full(before < 0 ? before + stages_ : before), before < 0 ? place.parity ^ 1 : place.parity);
    }

    template <typename, bool>
    friend class FeedReader;

    unsigned char* data_;
    unsigned char* scales_;
    uint32_t barriers_;
    int stages_, in_flight_;
    int32_t scale_bytes_;
};

// One of the kSlices warps that read: it gets its units one after the other.
template <typename T, bool kQuantized>
class FeedReader {
public:
    using Feed = WeightFeed<T, kQuantized>;
    using Layout = FeedLayout<T, kQuantized>;
    using Fragments = WeightFragments<T, kQuantized>;

    __device__ FeedReader(const Feed& feed, int warp)
        : feed_(feed), warp_(warp), data_(feed.data_ + warp * Fragments::kUnitBytes) {}

    // Goes to the next weight, of which the block has tiles first_tile, first_tile + gridDim.x, .. Without the copy
    // engine there is one weight only.
    __device__ void start(const DecodeWeight& weight, int32_t first_tile) {
        const int pair = Fragments::row_pair(threadIdx.x % kWarpSize / 4);
        const int group = kHasCopyEngine ? warp_ * kUnit >> weight.group_shift : warp_ * weight.groups_per_unit;
        scales_ = feed_.scales_ + group * Fragments::kGroupBytes + pair * 4;
        if constexpr (!kHasCopyEngine) {
            weight_ = &weight;
            next_tile_ = first_tile;
            next_unit_ = warp_;
#pragma unroll 1
            for (int stage = 0; stage < feed_.stages_; ++stage) request(stage);
        }
    }

    // Waits for the next stage.
    __device__ void wait() const {
        if constexpr (kHasCopyEngine) {
            wait_for_phase(feed_.full(place_.stage), place_.parity);
        } else {
            wait_for_copies(feed_.stages_ - 1);
            __syncwarp();  // scales come by way of other lanes
        }
    }
    __device__ const Fragments& fragments() const { return fragments_; }
    // The warp's unit of the stage.
    __device__ const unsigned char* unit() const { return data_ + place_.stage * Layout::kDataBytes; }
    // The lane's scales in group `group` of this unit, which must exist.
    __device__ __half2 scales(int group) const {
        return *reinterpret_cast<const __half2*>(scales_ + place_.stage * feed_.scale_bytes_ +
                                                 group * Fragments::kGroupBytes);
    }
    // Hands the stage back.
    __device__ void release() {
        __syncwarp();
        if constexpr (kHasCopyEngine) {
            if (threadIdx.x % kWarpSize == 0) arrive(feed_.free(place_.stage));
        } else {
            request(place_.stage);
        }
        place_.advance(feed_.stages_);
    }

    // Waits for a stage that was lent, and goes on to the next one: Layout::kDataBytes bytes of all readers together.
    // Each hands it back when it no longer uses it.
    __device__ unsigned char* borrow(int& stage) {
        wait();
        stage = place_.stage;
        place_.advance(feed_.stages_);
        return feed_.data_ + stage * Layout::kDataBytes;
    }
    __device__ void give_back(int stage) const {
        order_writes_before_copies();
        __syncwarp();
        if (threadIdx.x % kWarpSize == 0) arrive(feed_.free(stage));
    }

private:
    __device__ void request(int stage) {
        const DecodeWeight& weight = *weight_;
        if (next_tile_ < weight.num_tiles) {
            if (next_unit_ < weight.units)
                copy_unit(fragments_, weight, next_tile_, next_unit_,
                          shared_address(data_ + stage * Layout::kDataBytes),
                          shared_address(feed_.scales_ + stage * feed_.scale_bytes_ +
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
    FeedPlace place_;
    // What to request, without the copy engine.
    const DecodeWeight* weight_;
    int32_t next_tile_, next_unit_;
};

}  // namespace tinyllm
