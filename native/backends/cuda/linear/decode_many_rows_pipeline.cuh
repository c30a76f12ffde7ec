// The stages of linear/decode_many_rows_sm90.cu: weights and x on their way through shared memory, and the warp that
// asks the copy engine for them.
//
// A stage is a box of kBlockRows weight rows x 128 bytes (a unit of int8, half a unit of 16-bit weights) with its
// scales and the same inputs of all rows of x, in blocks of 64 inputs with 128 bytes a row. Boxes and blocks are
// swizzled.
#pragma once

#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/tensor_copy.cuh"
#include "backends/cuda/linear/decode_weight.cuh"

namespace tinyllm::cuda {

constexpr int kBlockRows = 256;

// For kColumns rows of x. Beyond the last weight row, row of x and input there are zeros.
template <typename T, bool kQuantized, int kColumns>
struct WeightStage {
    static constexpr bool kHasScales = kQuantized;
    static constexpr int kInputs = kQuantized ? kUnit : kUnit / 2;
    static constexpr int kParts = kUnit / kInputs;  // stages a unit
    static constexpr int kBlocks = kInputs / 64;
    static constexpr int kWeightBytes = kBlockRows * 128;
    static constexpr int kXBlockBytes = kColumns * 128;
    static constexpr int kBytes = kWeightBytes + kBlocks * kXBlockBytes;
    static constexpr int kGroupBytes = kBlockRows * 2;

    static __host__ __device__ int32_t scale_bytes(const DecodeWeight& weight) {
        return kQuantized ? weight.groups_per_unit * kGroupBytes : 0;
    }
    // With two barriers.
    static __host__ __device__ int32_t bytes(const DecodeWeight& weight) {
        return kBytes + scale_bytes(weight) + 2 * 8;
    }
};

// Where `depth` stages lie in shared memory: all boxes, then all scales, then the barriers.
template <typename Stage>
struct StageRing {
    uint32_t boxes, scales, barriers;
    int32_t scale_bytes;
    int depth;

    // `shared`: kUnitAlign-aligned.
    __device__ StageRing(const DecodeWeight& weight, uint32_t shared, int depth)
        : boxes(shared),
          scales(shared + depth * Stage::kBytes),
          barriers(scales + depth * Stage::scale_bytes(weight)),
          scale_bytes(Stage::scale_bytes(weight)),
          depth(depth) {}

    // One thread calls, then a barrier of the block. `warps`: that hand each stage back.
    __device__ void init(int warps) const {
#pragma unroll 1
        for (int stage = 0; stage < depth; ++stage) {
            init_barrier(full(stage), 1);
            init_barrier(free(stage), warps);
        }
        publish_barriers();
    }
    __device__ uint32_t box(int stage) const { return boxes + stage * Stage::kBytes; }
    __device__ uint32_t x_block(int stage, int block) const {
        return box(stage) + Stage::kWeightBytes + block * Stage::kXBlockBytes;
    }
    __device__ uint32_t scales_of(int stage) const { return scales + stage * scale_bytes; }
    __device__ uint32_t full(int stage) const { return barriers + stage * 16; }
    __device__ uint32_t free(int stage) const { return barriers + stage * 16 + 8; }
};

// Which stage comes next, and the parity of its barriers' phase.
struct RingPlace {
    int stage = 0;
    uint32_t parity = 0;

    __device__ void advance(int depth) {
        if (++stage == depth) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// Asks for all stages of weight rows first_row .. first_row + kBlockRows - 1 and the units of `walk`; one thread calls.
// The first round of the ring asks for weights before the preceding kernel has ended, and for x after.
template <typename Stage>
__device__ void produce_stages(const DecodeWeight& weight, const CUtensorMap& weight_map, const CUtensorMap& x_map,
                               const StageRing<Stage>& ring, int32_t first_row, UnitWalk walk) {
    const int32_t n_padded = weight.num_tiles * kTileRows;
    const uint32_t group_bytes = min(kBlockRows, n_padded - first_row) * 2;
    const auto request_weights = [&](int stage, int32_t unit, int part) {
        const uint32_t barrier = ring.full(stage);
        const int32_t group = unit * kUnit >> weight.group_shift;
        const int32_t groups = Stage::kHasScales ? min(weight.groups_per_unit, weight.groups - group) : 0;
        arrive_expecting(barrier, Stage::kBytes + groups * group_bytes);
        copy_box(ring.box(stage), weight_map, unit * kUnit + part * Stage::kInputs, first_row, barrier);
        const __half* source = weight.scales + int64_t{group} * n_padded + first_row;
#pragma unroll 1
        for (int32_t i = 0; i < groups; ++i)
            copy_bytes(ring.scales_of(stage) + i * Stage::kGroupBytes, source + int64_t{i} * n_padded, group_bytes,
                       barrier);
    };
    const auto request_x = [&](int stage, int32_t unit, int part) {
#pragma unroll
        for (int block = 0; block < Stage::kBlocks; ++block)
            copy_box(ring.x_block(stage, block), x_map, unit * kUnit + part * Stage::kInputs + block * 64, 0,
                     ring.full(stage));
    };

    int requested = 0;
    for (UnitWalk ahead = walk; requested < ring.depth && !ahead.ended(); ahead.advance()) {
        for (int part = 0; part < Stage::kParts && requested < ring.depth; ++part)
            request_weights(requested++, ahead.unit, part);
    }
    wait_for_predecessor();
    RingPlace place;
#pragma unroll 1
    for (; !walk.ended(); walk.advance()) {
#pragma unroll 1
        for (int part = 0; part < Stage::kParts; ++part) {
            if (requested > 0) {
                --requested;
            } else {
                wait_for_phase(ring.free(place.stage), place.parity ^ 1);
                request_weights(place.stage, walk.unit, part);
            }
            request_x(place.stage, walk.unit, part);
            place.advance(ring.depth);
        }
    }
}

}  // namespace tinyllm::cuda
