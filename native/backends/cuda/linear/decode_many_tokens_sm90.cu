// Decode linear for up to 64 tokens, a GEMM by wgmma and TMA (compute capability 9.0a): y = x W^T + b, the weights read
// once.
//
//   x: T [tokens <= 64, k], rows aligned to 16 bytes; weight: packed, in tiles of 16 rows; out: LinearOutput
// The weights are the A operand and come from registers, where int8 becomes T; x is the B operand and is read by the
// tensor cores from shared memory. A block takes 256 weight rows and one K split. Two consumer warpgroups multiply, two
// tiles of 64 weight rows each; one producer warp keeps the pipeline full. With split-K the partial sums go to memory
// and reduce_splits() adds them. Bound by reading the weights.
// A chain of wgmma gives the same bits as the chain of mma.sync m16n8k16 over the same inputs, so the sums are those of
// the other decode kernels.
#include <algorithm>

#include "backends/cuda/device/wgmma.cuh"
#include "backends/cuda/linear/decode_epilogue.cuh"
#include "backends/cuda/linear/decode_kernels.h"
#include "backends/cuda/linear/decode_many_tokens_pipeline.cuh"
#include "backends/cuda/runtime/launch.h"
#include "backends/cuda/runtime/tensor_map.h"

// The features of 9.0a exist only in code for exactly that target.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define TL_HAS_WGMMA 1
#else
#define TL_HAS_WGMMA 0
#endif

namespace tinyllm::cuda {

namespace {

constexpr int kWarpgroup = 128;
constexpr int kConsumers = 2;        // warpgroups
constexpr int kTilesOfConsumer = 2;  // of 64 weight rows
constexpr int kConsumerThreads = kConsumers * kWarpgroup;
constexpr int kMaxStages = 8;
static_assert(kConsumers * kTilesOfConsumer * 64 == kBlockRows);

// The sums of 64 tokens need more registers than an equal share of the block's. The producer then is a whole warpgroup,
// which gives its registers to the consumers.
template <int kTokens>
constexpr bool kMovesRegisters = kTokens > 32;
template <int kTokens>
constexpr int kThreads = kConsumerThreads + (kMovesRegisters<kTokens> ? kWarpgroup : kWarpSize);

// Blocks that fit on an SM. Where it is two, the blocks of the next kernel fill their pipelines while this one ends.
template <int kTokens>
constexpr int kBlocksOfSm = kTokens <= 16 ? 2 : 1;

// Results of a block on their way out: float [kTokens, kPitch].
constexpr int kPitch = kBlockRows + 8;

#if TL_HAS_WGMMA

constexpr int kConsumerWarps = kConsumerThreads / kWarpSize;

// The sums of a tile of 64 weight rows in the order of linear/decode_order.h, each laid out as d
// of wgmma.
template <bool kQuantized, int kTokens>
struct TileSum {
    float k_slice[kTokens / 2] = {};  // not with 16-bit weights: their K slice is one chain
    float k_split[kTokens / 2] = {};
    float scale[2] = {};  // of the current chain, for the lane's two weight rows

    __device__ void add_chain(const float (&chain)[kTokens / 2]) {
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) k_slice[i] = __fmaf_rn(chain[i], scale[i / 2 % 2], k_slice[i]);
    }
    __device__ void end_k_slice(const float (&chain)[kTokens / 2]) {
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) {
            k_split[i] = __fadd_rn(k_split[i], kQuantized ? k_slice[i] : chain[i]);
            k_slice[i] = 0;
        }
    }
};

// A consumer warp: one of the four of a warpgroup that multiplies.
template <typename T, bool kQuantized, int kTokens>
class Consumer {
public:
    using Stage = PipelineStage<T, kQuantized, kTokens>;
    using Fragments = WeightFragments<T, kQuantized>;

    // `shared`: the boxes of the pipeline's stages.
    __device__ Consumer(const DecodeWeight& weight, const Pipeline<Stage>& pipeline, const unsigned char* shared)
        : weight_(weight), pipeline_(pipeline), boxes_(shared), lane_(threadIdx.x % kWarpSize) {
        const int warp = threadIdx.x / kWarpSize;
        first_tile_ = warp / 4 * (kTilesOfConsumer * 4) + warp % 4;
        pair_ = Fragments::row_pair(lane_ / 4);
    }

    // Sums the K slices first_k_slice .. end_k_slice - 1.
    __device__ void multiply(int32_t first_k_slice, int32_t end_k_slice) {
#pragma unroll 1
        for (int32_t k_slice = first_k_slice; k_slice < min(end_k_slice, weight_.k_blocks); ++k_slice) {
#pragma unroll 1
            for (int32_t k_block = k_slice; k_block < weight_.k_blocks; k_block += kKSlices) {
#pragma unroll 1
                for (int half = 0; half < Stage::kStagesPerKBlock; ++half)
                    multiply_stage(k_block, half == 0 && k_block == k_slice);
            }
            finish_k_slice();
        }
    }

    // Writes the sums of the K split to float [kTokens, kPitch].
    __device__ void put(float* results) const {
#pragma unroll
        for (int m = 0; m < kTilesOfConsumer; ++m) {
            float* const first = results + (first_tile_ + 4 * m) * kTileRows + 2 * pair_;
#pragma unroll
            for (int j = 0; j < kTokens / 8; ++j) {
                float* target = first + (8 * j + lane_ % 4 * 2) * kPitch;
                const float* sums = sums_[m].k_split + 4 * j;
                *reinterpret_cast<float2*>(target) = {sums[0], sums[2]};
                *reinterpret_cast<float2*>(target + kPitch) = {sums[1], sums[3]};
            }
        }
    }

private:
    // With int8 weights a chain ends within the K block, so both tiles share one accumulator: while this warpgroup
    // scales and adds, the tensor cores work for the other one.
    static constexpr int kChains = kQuantized ? 1 : kTilesOfConsumer;

    // The next stage of the pipeline: both tiles, in blocks of 64 inputs. `begins`: it is the first of a K slice.
    __device__ void multiply_stage(int32_t k_block, bool begins) {
        wait_for_phase(pipeline_.full(state_.stage), state_.parity);
#pragma unroll
        for (int step = 0; step < kTilesOfConsumer * Stage::kBlocks; ++step) {
            // The wait of step 0 has ended the last wgmma that reads the stage before this one.
            if (step == 1 && last_empty_ != 0) {
                __syncwarp();
                if (lane_ == 0) arrive(last_empty_);
            }
            multiply_block(step / Stage::kBlocks, step % Stage::kBlocks, k_block, begins, fragments_[step % 2]);
        }
        last_empty_ = pipeline_.empty(state_.stage);
        state_.advance(pipeline_.num_stages);
    }

    // 64 weight rows x 64 inputs: block `block` of the stage, tile `m`.
    __device__ void multiply_block(int m, int block, int32_t k_block, bool begins, uint32_t (&fragments)[4][4]) {
        float (&chain)[kTokens / 2] = chains_[m % kChains];
        load_fragments(m, block, fragments);
        const bool starts = kQuantized ? start_group(m, block, k_block, begins) : begins;
        const uint64_t x = wgmma_tile(pipeline_.x_block(state_.stage, block));
        begin_wgmma();
        wgmma<T, kTokens>(chain, fragments[0], x, !starts);
        wgmma<T, kTokens>(chain, fragments[1], x + 2);
        const bool splits = kQuantized && weight_.groups_per_k_block == 4;
        if (splits) {
            commit_wgmma();
            wait_for_wgmma<0>(chain);
            sums_[m].add_chain(chain);
            read_scales(m, k_block, 2 * block + 1);
        }
        if (kQuantized) begin_wgmma();
        wgmma<T, kTokens>(chain, fragments[2], x + 4, !splits);
        wgmma<T, kTokens>(chain, fragments[3], x + 6);
        commit_wgmma();
        wait_for_wgmma<1>();
    }

    // Where a group begins with block `block` of tile `m`: ends the chain of the group before it, which may belong to
    // the other tile, and reads the scales. Returns whether a group begins.
    __device__ bool start_group(int m, int block, int32_t k_block, bool begins) {
        if (block > 0 && weight_.groups_per_k_block == 1) return false;
        float (&chain)[kTokens / 2] = chains_[0];
        wait_for_wgmma<0>(chain);
        if (block > 0)
            sums_[m].add_chain(chain);
        else if (m > 0)
            sums_[m - 1].add_chain(chain);
        else if (!begins)
            sums_[kTilesOfConsumer - 1].add_chain(chain);
        read_scales(m, k_block, block * weight_.groups_per_k_block / 2);
        return true;
    }

    __device__ void finish_k_slice() {
#pragma unroll
        for (int i = 0; i < kChains; ++i) wait_for_wgmma<0>(chains_[i]);
        if constexpr (kQuantized) sums_[kTilesOfConsumer - 1].add_chain(chains_[0]);
#pragma unroll
        for (int m = 0; m < kTilesOfConsumer; ++m) sums_[m].end_k_slice(chains_[m % kChains]);
    }

    __device__ void load_fragments(int m, int block, uint32_t (&fragments)[4][4]) const {
        uint32_t words[2][Fragments::kWords];
        weights_.read(boxes_ + state_.stage * Stage::kBytes + (first_tile_ + 4 * m) * Fragments::kBoxBytes, block,
                      words);
#pragma unroll
        for (int step = 0; step < 4; ++step) Fragments::fragment(words, step, fragments[step]);
    }

    __device__ void read_scales(int m, int32_t k_block, int group) {
        uint32_t word;
        const uint32_t address = pipeline_.scales_of(state_.stage) + group * Stage::kGroupBytes +
                                 (first_tile_ + 4 * m) * Fragments::kGroupBytes + pair_ * 4;
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
        // A group beyond the last has weights 0 and no scale.
        if (group > 0 && k_block * weight_.groups_per_k_block + group >= weight_.groups) word = 0;
        const __half2 scales = *reinterpret_cast<const __half2*>(&word);
        sums_[m].scale[0] = __low2float(scales);
        sums_[m].scale[1] = __high2float(scales);
    }

    const DecodeWeight& weight_;
    const Pipeline<Stage>& pipeline_;
    const Fragments weights_;
    const unsigned char* boxes_;
    int lane_, pair_;
    int first_tile_;  // of 16 rows in the block; the warp's second one is 4 further
    PipelineState state_;
    uint32_t last_empty_ = 0;      // empty barrier of the stage before this one
    uint32_t fragments_[2][4][4];  // of this block of 64 inputs and the next, in turn
    float chains_[kChains][kTokens / 2] = {};
    TileSum<kQuantized, kTokens> sums_[kTilesOfConsumer];
};

// The consumer warpgroups: the sums of the block, then the epilogue.
template <typename T, bool kQuantized, int kTokens>
__device__ void run_consumers(const DecodeWeight& weight,
                              const Pipeline<PipelineStage<T, kQuantized, kTokens>>& pipeline, unsigned char* shared,
                              int32_t first_k_slice, int32_t end_k_slice, const LinearOutput& out, float* partial,
                              int32_t tokens) {
    if constexpr (kMovesRegisters<kTokens>) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    wait_for_predecessor();
    Consumer<T, kQuantized, kTokens> consumer(weight, pipeline, shared);
    consumer.multiply(first_k_slice, end_k_slice);
    float* const results = reinterpret_cast<float*>(shared);
    first_threads_barrier<kConsumerThreads>();  // all stages have been read
    consumer.put(results);
    first_threads_barrier<kConsumerThreads>();
    store_results<T, kBlockRows, kPitch, kConsumerThreads>(weight, out, partial, results, tokens);
}

#endif  // TL_HAS_WGMMA

// PRECOND: grid (ceil(n_padded / kBlockRows), weight.k_splits), block kThreads, dynamic shared memory of `num_stages`
// stages; tokens <= kTokens. weight_map: boxes of kBlockRows x 128 bytes; x_map: boxes of kTokens x 64 inputs; both
// swizzled. partial: float [k_splits, tokens, n_padded] where k_splits > 1.
template <typename T, bool kQuantized, int kTokens>
__global__ void __launch_bounds__(allocated_threads(kThreads<kTokens>), kBlocksOfSm<kTokens>)
    many_tokens_sm90_kernel(const __grid_constant__ DecodeWeight weight, const __grid_constant__ CUtensorMap weight_map,
                            const __grid_constant__ CUtensorMap x_map, const __grid_constant__ LinearOutput out,
                            float* partial, const int32_t tokens, const int num_stages) {
#if TL_HAS_WGMMA
    using Stage = PipelineStage<T, kQuantized, kTokens>;
    extern __shared__ __align__(kKBlockAlign) unsigned char shared[];
    release_successor();
    const Pipeline<Stage> pipeline(weight, shared_address(shared), num_stages);
    if (threadIdx.x == 0) pipeline.init(kConsumerWarps);
    __syncthreads();
    const int32_t k_slices = kKSlices / weight.k_splits;
    const int32_t first_k_slice = blockIdx.y * k_slices, end_k_slice = first_k_slice + k_slices;
    const int warp = warp_index();
    if (warp < kConsumerWarps) {
        run_consumers<T, kQuantized, kTokens>(weight, pipeline, shared, first_k_slice, end_k_slice, out, partial,
                                              tokens);
    } else {
        if constexpr (kMovesRegisters<kTokens>) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (warp == kConsumerWarps && elect_lane())
            produce(weight, weight_map, x_map, pipeline, blockIdx.x * kBlockRows,
                    KBlockWalk(weight.k_blocks, first_k_slice, end_k_slice));
    }
#else
    __trap();  // not dispatched: DeviceTraits::sm90a
#endif
}

template <typename T, bool kQuantized, int kTokens>
void launch(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, const DecodeInput& input,
            float* partial, const LinearOutput& out) {
    using Stage = PipelineStage<T, kQuantized, kTokens>;
    static_assert(2 * Stage::kBytes >= kTokens * kPitch * 4);
    const dim3 blocks(ceil_div(weight.num_tiles * kTileRows, kBlockRows), weight.k_splits);
    const BlockShare share = kBlocksOfSm<kTokens> == 1 ? BlockShare{device_traits().max_shared_bytes, 0}
                                                       : block_share(weight.hints, blocks.x * blocks.y);
    const int num_stages = std::min(kMaxStages, share.limit / Stage::bytes(weight));
    TL_CHECK(num_stages >= 2);
    const int32_t bytes = std::max(num_stages * Stage::bytes(weight), share.least);
    const auto kernel = many_tokens_sm90_kernel<T, kQuantized, kTokens>;
    allow_all_shared_memory(kernel);
    const auto type = activation == DType::F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    const CUtensorMap weight_map = make_tensor_map({.data = weight.data,
                                                    .type = kQuantized ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : type,
                                                    .rows = int64_t{weight.num_tiles} * kTileRows,
                                                    .cols = weight.k_padded,
                                                    .row_bytes = int64_t{weight.k_padded} * (kQuantized ? 1 : 2),
                                                    .box_rows = kBlockRows,
                                                    .box_cols = Stage::kInputs,
                                                    .swizzled = true});
    const CUtensorMap x_map = make_tensor_map({.data = input.x,
                                               .type = type,
                                               .rows = input.tokens,
                                               .cols = weight.k,
                                               .row_bytes = input.row_stride * 2,
                                               .box_rows = kTokens,
                                               .box_cols = 64,
                                               .swizzled = true});
    launch_overlapped("launch of many_tokens_sm90_kernel", kernel,
                      {blocks, kThreads<kTokens>, static_cast<size_t>(bytes)}, cuda_stream, weight, weight_map, x_map,
                      out, partial, input.tokens, num_stages);
}

}  // namespace

void linear_decode_many_tokens_sm90(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight,
                                    bool quantized, const DecodeInput& input, float* partial, const LinearOutput& out) {
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        const auto with_tokens = [&]<bool kQuantized>() {
            const auto run = input.tokens <= 16   ? launch<T, kQuantized, 16>
                             : input.tokens <= 32 ? launch<T, kQuantized, 32>
                                                  : launch<T, kQuantized, 64>;
            run(cuda_stream, activation, weight, input, partial, out);
        };
        if (quantized)
            with_tokens.template operator()<true>();
        else
            with_tokens.template operator()<false>();
    });
}

}  // namespace tinyllm::cuda
