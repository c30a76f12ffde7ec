// The pipeline of linear/decode_many_tokens_sm90.cu: weights and x on their way through shared memory, and the producer
// that copies them by TMA.
//
// A stage holds a box of kBlockRows weight rows x 128 bytes (a K block of int8, half a K block of 16-bit weights), its
// scales, and the same inputs of all tokens, in blocks of 64 inputs with 128 bytes per token. Boxes and blocks are
// swizzled.
#pragma once

#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/tensor_copy.cuh"
#include "backends/cuda/linear/decode_weight.cuh"

namespace tinyllm::cuda {

constexpr int kBlockRows = 256;

// For kTokens tokens. Beyond the last weight row, token or input a stage has zeros.
template <typename T, bool kQuantized, int kTokens>
struct PipelineStage {
    static constexpr bool kHasScales = kQuantized;
    static constexpr int kInputs = kQuantized ? kKBlock : kKBlock / 2;
    static constexpr int kStagesPerKBlock = kKBlock / kInputs;  // 1 or 2
    static constexpr int kBlocks = kInputs / 64;
    static constexpr int kWeightBytes = kBlockRows * 128;
    static constexpr int kXBlockBytes = kTokens * 128;
    static constexpr int kBytes = kWeightBytes + kBlocks * kXBlockBytes;
    static constexpr int kGroupBytes = kBlockRows * 2;

    static __host__ __device__ int32_t scale_bytes(const DecodeWeight& weight) {
        return kQuantized ? weight.groups_per_k_block * kGroupBytes : 0;
    }
    // Including a full and an empty barrier.
    static __host__ __device__ int32_t bytes(const DecodeWeight& weight) {
        return kBytes + scale_bytes(weight) + 2 * 8;
    }
};

// The layout of `num_stages` stages in shared memory: all boxes, then all scales, then the barriers.
template <typename Stage>
struct Pipeline {
    uint32_t boxes, scales, barriers;
    int32_t scale_bytes;
    int num_stages;

    // `shared`: kKBlockAlign-aligned.
    __device__ Pipeline(const DecodeWeight& weight, uint32_t shared, int num_stages)
        : boxes(shared),
          scales(shared + num_stages * Stage::kBytes),
          barriers(scales + num_stages * Stage::scale_bytes(weight)),
          scale_bytes(Stage::scale_bytes(weight)),
          num_stages(num_stages) {}

    // One thread calls, then the block meets at a barrier. `warps`: consumer warps, which each arrive when they have
    // read a stage.
    __device__ void init(int warps) const {
#pragma unroll 1
        for (int stage = 0; stage < num_stages; ++stage) {
            init_barrier(full(stage), 1);
            init_barrier(empty(stage), warps);
        }
        publish_barriers();
    }
    __device__ uint32_t box(int stage) const { return boxes + stage * Stage::kBytes; }
    __device__ uint32_t x_block(int stage, int block) const {
        return box(stage) + Stage::kWeightBytes + block * Stage::kXBlockBytes;
    }
    __device__ uint32_t scales_of(int stage) const { return scales + stage * scale_bytes; }
    __device__ uint32_t full(int stage) const { return barriers + stage * 16; }
    __device__ uint32_t empty(int stage) const { return barriers + stage * 16 + 8; }
};

// The next stage, and the parity of the phase of its barriers.
struct PipelineState {
    int stage = 0;
    uint32_t parity = 0;

    __device__ void advance(int num_stages) {
        if (++stage == num_stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// The producer: copies the weight rows first_row .. first_row + kBlockRows - 1 and x, for the K blocks of `walk`. One
// thread calls. Weights of the first num_stages stages are requested before the preceding kernel has ended, x after
// it.
template <typename Stage>
__device__ void produce(const DecodeWeight& weight, const CUtensorMap& weight_map, const CUtensorMap& x_map,
                        const Pipeline<Stage>& pipeline, int32_t first_row, KBlockWalk walk) {
    const int32_t n_padded = weight.num_tiles * kTileRows;
    const uint32_t group_bytes = min(kBlockRows, n_padded - first_row) * 2;
    const auto request_weights = [&](int stage, int32_t k_block, int half) {
        const uint32_t barrier = pipeline.full(stage);
        const int32_t group = k_block * kKBlock >> weight.group_shift;
        const int32_t groups = Stage::kHasScales ? min(weight.groups_per_k_block, weight.groups - group) : 0;
        arrive_expecting(barrier, Stage::kBytes + groups * group_bytes);
        copy_box(pipeline.box(stage), weight_map, k_block * kKBlock + half * Stage::kInputs, first_row, barrier);
        const __half* source = weight.scales + int64_t{group} * n_padded + first_row;
#pragma unroll 1
        for (int32_t i = 0; i < groups; ++i)
            copy_bytes(pipeline.scales_of(stage) + i * Stage::kGroupBytes, source + int64_t{i} * n_padded, group_bytes,
                       barrier);
    };
    const auto request_x = [&](int stage, int32_t k_block, int half) {
#pragma unroll
        for (int block = 0; block < Stage::kBlocks; ++block)
            copy_box(pipeline.x_block(stage, block), x_map, k_block * kKBlock + half * Stage::kInputs + block * 64, 0,
                     pipeline.full(stage));
    };

    int requested = 0;
    for (KBlockWalk ahead = walk; requested < pipeline.num_stages && !ahead.ended(); ahead.advance()) {
        for (int half = 0; half < Stage::kStagesPerKBlock && requested < pipeline.num_stages; ++half)
            request_weights(requested++, ahead.k_block, half);
    }
    wait_for_predecessor();
    PipelineState state;
#pragma unroll 1
    for (; !walk.ended(); walk.advance()) {
#pragma unroll 1
        for (int half = 0; half < Stage::kStagesPerKBlock; ++half) {
            if (requested > 0) {
                --requested;
            } else {
                wait_for_phase(pipeline.empty(state.stage), state.parity ^ 1);
                request_weights(state.stage, walk.k_block, half);
            }
            request_x(state.stage, walk.k_block, half);
            state.advance(pipeline.num_stages);
        }
    }
}

}  // namespace tinyllm::cuda
