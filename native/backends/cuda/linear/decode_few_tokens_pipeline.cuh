// The pipeline of linear/decode_few_tokens.cu: weights on their way through shared memory.
//
// A stage holds kKSlices K blocks of one tile, K block first + w for consumer warp w, and their scales. On compute
// capability 9.0 a producer warp copies whole stages by TMA: it waits for the empty barrier of a stage, the copies
// complete on its full barrier, and each consumer warp arrives at the empty barrier when it has read its K block. On
// older GPUs every consumer warp copies its own K blocks by cp.async.
#pragma once

#include "backends/cuda/device/tensor_copy.cuh"
#include "backends/cuda/linear/decode_weight.cuh"

namespace tinyllm::cuda {

constexpr int kMaxStages = 4;

// The layout in the block's shared memory: the K blocks of all stages, the scales of all stages, then two barriers per
// stage.
template <typename T, bool kQuantized>
struct PipelineLayout {
    using Fragments = WeightFragments<T, kQuantized>;
    static constexpr int kDataBytes = kKSlices * Fragments::kKBlockBytes;

    // Groups whose scales a stage holds, for all its K blocks.
    static __host__ __device__ int32_t stage_groups(const DecodeWeight& weight) {
        return max(1, kKSlices * kKBlock >> weight.group_shift);
    }
    // With TMA the K blocks share the scales of a group and the target is 128-byte aligned; with cp.async each K block
    // has scales of its own.
    static __host__ __device__ int32_t scale_bytes(const DecodeWeight& weight) {
        const int32_t groups = max(stage_groups(weight), kKSlices * weight.groups_per_k_block);
        return kQuantized ? groups * Fragments::kGroupBytes : 0;
    }
    static __host__ __device__ int32_t bytes(const DecodeWeight& weight, int stages) {
        return stages * (kDataBytes + scale_bytes(weight) + 2 * 8);
    }
};

template <typename T, bool kQuantized>
class WeightPipeline {
public:
    using Layout = PipelineLayout<T, kQuantized>;
    using Fragments = WeightFragments<T, kQuantized>;

    // `shared`: kKBlockAlign-aligned, Layout::bytes(weight, stages) bytes.
    __device__ WeightPipeline(const DecodeWeight& weight, unsigned char* shared, int stages)
        : weight_(weight), data_(shared), scales_(shared + stages * Layout::kDataBytes), stages_(stages) {
        barriers_ = shared_address(scales_ + stages * Layout::scale_bytes(weight));
    }

    // One thread calls, then a barrier of the block.
    __device__ void init() const {
        if constexpr (kHasTma) {
#pragma unroll 1
            for (int stage = 0; stage < stages_; ++stage) {
                init_barrier(full(stage), 1);
                init_barrier(empty(stage), kKSlices);
            }
            publish_barriers();
        }
    }

    // The producer warp: copies the weights of all tiles of this block. weights: boxes of 16 rows x 128 bytes; scales:
    // boxes of 16 rows x stage_groups() groups.
    __device__ void produce(const CUtensorMap& weights, const CUtensorMap& scales) const {
        if (!elect_lane()) return;
        const uint32_t scale_box = kQuantized ? Layout::stage_groups(weight_) * Fragments::kGroupBytes : 0;
        int stage = 0;
        uint32_t parity = 1;  // all stages are empty at first
#pragma unroll 1
        for (int32_t tile = blockIdx.x; tile < weight_.num_tiles; tile += gridDim.x) {
#pragma unroll 1
            for (int32_t first = 0; first < weight_.k_blocks; first += kKSlices) {
                const uint32_t barrier = full(stage);
                wait_for_phase(empty(stage), parity);
                const int32_t count = min(kKSlices, weight_.k_blocks - first);
                arrive_expecting(barrier, count * Fragments::kKBlockBytes + scale_box);
                if (kQuantized)
                    copy_box(shared_address(scales_ + stage * Layout::scale_bytes(weight_)), scales, tile * kTileRows,
                             first * kKBlock >> weight_.group_shift, barrier);
                const uint32_t data = shared_address(data_ + stage * Layout::kDataBytes);
                const auto request = [&](int i) {
#pragma unroll
                    for (int box = 0; box < Fragments::kBoxes; ++box)
                        copy_box(data + i * Fragments::kKBlockBytes + box * Fragments::kBoxBytes, weights,
                                 (first + i) * kKBlock + box * 64, tile * kTileRows, barrier);
                };
                if (count == kKSlices) {
#pragma unroll
                    for (int i = 0; i < kKSlices; ++i) request(i);
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
    __device__ uint32_t empty(int stage) const { return barriers_ + stage * 16 + 8; }

    template <typename, bool>
    friend class PipelineConsumer;

    const DecodeWeight& weight_;
    unsigned char* data_;
    unsigned char* scales_;
    uint32_t barriers_;
    int stages_;
};

// A consumer warp's end of the pipeline: it gets the K blocks of its slice one after the other.
template <typename T, bool kQuantized>
class PipelineConsumer {
public:
    using Pipeline = WeightPipeline<T, kQuantized>;
    using Layout = PipelineLayout<T, kQuantized>;
    using Fragments = WeightFragments<T, kQuantized>;

    __device__ PipelineConsumer(const Pipeline& pipeline, int warp)
        : pipeline_(pipeline), warp_(warp), next_tile_(blockIdx.x), next_k_block_(warp) {
        const int pair = Fragments::row_pair(threadIdx.x % kWarpSize / 4);
        const int group =
            kHasTma ? warp * kKBlock >> pipeline.weight_.group_shift : warp * pipeline.weight_.groups_per_k_block;
        data_ = pipeline.data_ + warp * Fragments::kKBlockBytes;
        scales_ = pipeline.scales_ + group * Fragments::kGroupBytes + pair * 4;
        if constexpr (!kHasTma) {
#pragma unroll 1
            for (int stage = 0; stage < pipeline.stages_; ++stage) request(stage);
        }
    }

    // Waits for the next stage.
    __device__ void wait() const {
        if constexpr (kHasTma) {
            wait_for_phase(pipeline_.full(stage_), parity_);
        } else {
            wait_for_copies(pipeline_.stages_ - 1);
            __syncwarp();  // other lanes have copied the scales
        }
    }
    __device__ const Fragments& fragments() const { return fragments_; }
    // The warp's K block of the stage.
    __device__ const unsigned char* k_block() const { return data_ + stage_ * Layout::kDataBytes; }
    // The lane's scales in group `group` of this K block, which must exist.
    __device__ __half2 scales(int group) const {
        return *reinterpret_cast<const __half2*>(scales_ + stage_ * Layout::scale_bytes(pipeline_.weight_) +
                                                 group * Fragments::kGroupBytes);
    }
    // Gives the stage back to the producer.
    __device__ void release() {
        __syncwarp();
        if constexpr (kHasTma) {
            if (threadIdx.x % kWarpSize == 0) arrive(pipeline_.empty(stage_));
        } else {
            request(stage_);
        }
        if (++stage_ == pipeline_.stages_) {
            stage_ = 0;
            parity_ ^= 1;
        }
    }

private:
    __device__ void request(int stage) {
        const DecodeWeight& weight = pipeline_.weight_;
        if (next_tile_ < weight.num_tiles) {
            if (next_k_block_ < weight.k_blocks)
                copy_k_block(fragments_, weight, next_tile_, next_k_block_,
                             shared_address(data_ + stage * Layout::kDataBytes),
                             shared_address(pipeline_.scales_ + stage * Layout::scale_bytes(weight) +
                                            warp_ * weight.groups_per_k_block * Fragments::kGroupBytes));
            next_k_block_ += kKSlices;
            if (next_k_block_ - warp_ >= weight.k_blocks) {
                next_k_block_ = warp_;
                next_tile_ += gridDim.x;
            }
        }
        commit_copies();
    }

    const Pipeline& pipeline_;
    const int warp_;
    Fragments fragments_;
    const unsigned char* data_;
    const unsigned char* scales_;
    int stage_ = 0;
    uint32_t parity_ = 0;
    int32_t next_tile_, next_k_block_;  // the next copy, without TMA
};

}  // namespace tinyllm::cuda
