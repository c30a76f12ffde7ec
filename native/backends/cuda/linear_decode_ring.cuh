// A warp's ring of weight units in shared memory for linear_decode_many_sm80.cu: it runs ahead of the arithmetic, so
// that memory never waits for it. With compute capability 9.0 one lane asks the copy engine for a unit; before that,
// every lane copies by cp.async the bytes that it will read.
#pragma once

#include "backends/cuda/device/tensor_copy.cuh"
#include "backends/cuda/linear_decode_weight.cuh"

namespace tinyllm {

constexpr int kMaxDepth = 4;

template <typename T, bool kQuantized>
class WeightRing {
public:
    using Fragments = WeightFragments<T, kQuantized>;
    static constexpr int kBoxes = Fragments::kBoxes;
    static constexpr int kDataBytes = Fragments::kUnitBytes;
    static constexpr int kGroupBytes = Fragments::kGroupBytes;

    // Of a slot: data, scales and the barrier.
    static __host__ __device__ int32_t slot_bytes(const DecodeWeight& weight) {
        return kDataBytes + scale_bytes(weight) + 8;
    }

    // Slots first .. first + count - 1 of the `slots` that lie in `shared` (kUnitAlign-aligned): all data, then all
    // scales, then all barriers. `map` describes the weight in boxes of 16 rows x 128 bytes to the copy engine. Where
    // `owner`, the warp makes the barriers of its slots.
    __device__ WeightRing(const DecodeWeight& weight, const CUtensorMap& map, unsigned char* shared, int slots,
                          int first, int count, bool owner)
        : weight_(weight), map_(map) {
        const int lane = threadIdx.x % kWarpSize;
        data_ = shared + first * kDataBytes;
        scales_ = shared + slots * kDataBytes + first * scale_bytes(weight);
        barriers_ = shared_address(shared + slots * (kDataBytes + scale_bytes(weight))) + first * 8;
        if (kHasCopyEngine && owner && lane == 0) {
#pragma unroll 1
            for (int slot = 0; slot < count; ++slot) init_barrier(barriers_ + slot * 8, 1);
            publish_barriers();
        }
        __syncwarp();
    }

    // Requests a unit of a tile into a slot that no lane reads any more.
    __device__ void request(int slot, int32_t tile, int32_t unit) const {
        const uint32_t data = shared_address(data_ + slot * kDataBytes);
        const uint32_t scales = shared_address(scales_ + slot * scale_bytes(weight_));
        if constexpr (kHasCopyEngine) {
            if (!elect_lane()) return;
            const uint32_t barrier = barriers_ + slot * 8;
            const int32_t group = unit * kUnit >> weight_.group_shift;
            const int32_t groups = kQuantized ? min(weight_.groups_per_unit, weight_.groups - group) : 0;
            arrive_expecting(barrier, kDataBytes + groups * kGroupBytes);
#pragma unroll
            for (int box = 0; box < kBoxes; ++box)
                copy_box(data + box * Fragments::kBoxBytes, map_, unit * kUnit + box * 64, tile * kTileRows, barrier);
#pragma unroll 1
            for (int32_t i = 0; i < groups; ++i)
                copy_bytes(scales + i * kGroupBytes,
                           weight_.scales + (int64_t{group + i} * weight_.num_tiles + tile) * kTileRows, kGroupBytes,
                           barrier);
        } else {
            copy_unit(fragments_, weight_, tile, unit, data, scales);
        }
    }

    // Waits for the unit in a slot. `parity` counts the turns of the ring. Before compute capability 9.0 all but the
    // last `pending` groups of copies are waited for instead.
    __device__ void wait(int slot, uint32_t parity, int pending) const {
        if constexpr (kHasCopyEngine) {
            wait_for_phase(barriers_ + slot * 8, parity);
        } else {
            wait_for_copies(pending);
            __syncwarp();  // scales come by way of other lanes
        }
    }

    __device__ const Fragments& fragments() const { return fragments_; }
    // The unit in a slot.
    __device__ const unsigned char* unit(int slot) const { return data_ + slot * kDataBytes; }
    // Scales of the lane's two rows in group `group` of the unit, which must exist.
    __device__ __half2 scales(int slot, int group) const {
        const int pair = Fragments::row_pair(threadIdx.x % kWarpSize / 4);
        const unsigned char* source = scales_ + slot * scale_bytes(weight_) + group * kGroupBytes;
        return reinterpret_cast<const __half2*>(source)[pair];
    }

private:
    static __host__ __device__ int32_t scale_bytes(const DecodeWeight& weight) {
        return kQuantized ? weight.groups_per_unit * kGroupBytes : 0;
    }

    const DecodeWeight& weight_;
    const CUtensorMap& map_;
    unsigned char* data_;
    unsigned char* scales_;
    uint32_t barriers_;
    Fragments fragments_;
};

}  // namespace tinyllm
