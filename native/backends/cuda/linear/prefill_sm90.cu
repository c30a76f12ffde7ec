// GEMM for many tokens by wgmma and TMA (compute capability 9.0a): y = x W^T + b.
//
//   x: T [tokens, k]; weight: int8 or T [n_padded, k_padded] packed, scales f16 [groups, n_padded]
// The weights are the A operand and come from registers, where int8 becomes T; x is the B operand and is read by the
// tensor cores from shared memory. A tile of y has kTileOutputs weight rows and kTokens tokens. A block has one
// producer warpgroup, which copies by TMA into the stages of a pipeline, and two consumer warpgroups, which multiply 64
// weight rows each: while one converts weights or rescales its sums, the tensor cores work for the other. The two
// blocks of a cluster take neighbouring weight rows and the same tokens; each copies half of the tokens for both
// (multicast). The kernel is persistent: clusters stay on their SMs and take tile after tile, so the pipeline fills for
// the next tile while the epilogue writes y.
#include <algorithm>
#include <type_traits>

#include "backends/cuda/device/async_copy.cuh"
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/tensor_copy.cuh"
#include "backends/cuda/device/wgmma.cuh"
#include "backends/cuda/linear/prefill.h"
#include "backends/cuda/linear/prefill_output.cuh"
#include "backends/cuda/linear/prefill_tile.cuh"
#include "backends/cuda/runtime/launch.h"
#include "backends/cuda/runtime/tensor_map.h"

// The features of 9.0a exist only in code for exactly that target.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define TL_HAS_WGMMA 1
#define TL_CLUSTER_OF(blocks) __cluster_dims__(blocks, 1, 1)
#else
#define TL_HAS_WGMMA 0
#define TL_CLUSTER_OF(blocks)
#endif

namespace tinyllm::cuda {

namespace {

constexpr int kTileOutputs = 128;
constexpr int kCluster = 2;
constexpr int kWarpgroup = 128;
constexpr int kConsumers = 2;  // warpgroups
constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
constexpr int kPipelineBytes = 200 * 1024;
constexpr int kMaxStages = 8;

template <typename T, bool kQuantized, int kTokens>
struct Stage {
    static constexpr int kWeightBytes = kTileOutputs * WeightReader<T, kQuantized>::kRowBytes;
    static constexpr int kXBytes = kTokens * kBlockInputs * 2;
    static constexpr int kBytes = kWeightBytes + kXBytes;
    static constexpr int kCount = kPipelineBytes / kBytes < kMaxStages ? kPipelineBytes / kBytes : kMaxStages;
    static constexpr int kOutputBytes = OutputStage<T, kTileOutputs / kConsumers>::kBytes;
    // The stages at a multiple of 1024 bytes, an output stage per consumer, then a full and an empty barrier per stage.
    static constexpr int kSharedBytes = 1024 + kCount * kBytes + kConsumers * kOutputBytes + kCount * 2 * 8;
};

// The next stage, and the parity of the phase of its barriers.
template <int kCount>
struct PipelineState {
    int index = 0;
    uint32_t parity = 0;

    __device__ void advance() {
        if (++index == kCount) {
            index = 0;
            parity ^= 1;
        }
    }
};

#if TL_HAS_WGMMA

// The order of the tiles: bands of kBandTokens tokens; in a band all weights in ascending order, for each the band's
// tokens.
struct TileOrder {
    static constexpr int kBandTokens = 2048;  // their x stays in the L2 while all weights pass by

    int32_t token_tiles, output_tiles, band_tiles;

    __device__ TileOrder(int64_t tokens, int32_t n_padded, int tile_tokens) {
        token_tiles = static_cast<int32_t>((tokens + tile_tokens - 1) / tile_tokens);
        output_tiles = (n_padded + kCluster * kTileOutputs - 1) / (kCluster * kTileOutputs);
        band_tiles = kBandTokens / tile_tokens;
    }

    __device__ int32_t count() const { return token_tiles * output_tiles; }

    __device__ void find(int32_t tile, int32_t& token_tile, int32_t& output_tile) const {
        const int32_t band = tile / (band_tiles * output_tiles), in_band = tile - band * band_tiles * output_tiles;
        const int32_t width = min(band_tiles, token_tiles - band * band_tiles);
        output_tile = in_band / width;
        token_tile = band * band_tiles + in_band % width;
    }
};

// The producer: copies every block of inputs of every tile of this cluster.
template <typename Stage>
__device__ void produce(const CUtensorMap& weight_map, const CUtensorMap& x_map, const TileOrder& order, int32_t blocks,
                        int tile_tokens, uint32_t stages, uint32_t full, uint32_t empty) {
    const uint32_t rank = block_rank_in_cluster();
    PipelineState<Stage::kCount> position;
    for (int32_t tile = blockIdx.x / kCluster; tile < order.count(); tile += gridDim.x / kCluster) {
        int32_t token_tile, output_tile;
        order.find(tile, token_tile, output_tile);
        const int32_t first_output = (output_tile * kCluster + rank) * kTileOutputs;
        const int32_t first_token = token_tile * tile_tokens + rank * (tile_tokens / kCluster);
        for (int32_t block = 0; block < blocks; ++block) {
            wait_for_phase(empty + position.index * 8, position.parity ^ 1);
            const uint32_t barrier = full + position.index * 8;
            const uint32_t stage = stages + position.index * Stage::kBytes;
            arrive_expecting(barrier, Stage::kBytes);
            copy_box(stage + Stage::kXBytes, weight_map, block * kBlockInputs, first_output, barrier);
            copy_box_to_cluster(stage + rank * (Stage::kXBytes / kCluster), x_map, block * kBlockInputs, first_token,
                                barrier, (1 << kCluster) - 1);
            position.advance();
        }
    }
}

// A consumer warpgroup.
template <typename T, bool kQuantized, int kTokens>
__device__ void consume(const PackedWeight& weight, const float* bias, const TileOrder& order, int64_t tokens,
                        const LinearOutput& out, uint32_t stages, uint32_t full, uint32_t empty, float* output_stage) {
    using Stage = Stage<T, kQuantized, kTokens>;
    const uint32_t rank = block_rank_in_cluster();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_output = (warp - kWarpgroup / 32) * 16;
    const int32_t blocks = weight.k_padded / kBlockInputs;
    WeightReader<T, kQuantized> reader(warp_output, lane);
    PipelineState<Stage::kCount> position;
    for (int32_t tile = blockIdx.x / kCluster; tile < order.count(); tile += gridDim.x / kCluster) {
        int32_t token_tile, output_tile;
        order.find(tile, token_tile, output_tile);
        const int32_t first_output = (output_tile * kCluster + rank) * kTileOutputs + warp_output;
        GroupScales<kQuantized> scales(weight, first_output + lane / 4 * 2, lane);
        float sums[kTokens / 2] = {};
        uint32_t a[2][4][4];  // of this block and the next, in turn
        uint32_t last_empty = 0;
        const auto load_fragments = [&](uint32_t (&fragments)[4][4]) {
            wait_for_phase(full + position.index * 8, position.parity);
            reader.fragments(stages + position.index * Stage::kBytes + Stage::kXBytes, fragments);
        };
        const auto change_group = [&] {
            float factors[2];
            if (!scales.advance(factors)) return;
            wait_for_wgmma<0>(sums);
#pragma unroll
            for (int i = 0; i < kTokens / 2; ++i) sums[i] *= factors[i / 2 % 2];
        };
        // Starts the multiplication of a block; while it runs, prepares the fragments of the next one.
        const auto multiply = [&](int32_t block, const uint32_t (&current)[4][4], uint32_t (&next)[4][4]) {
            const uint64_t x = wgmma_tile(stages + position.index * Stage::kBytes);
            if (block > 0) change_group();
            begin_wgmma();
            wgmma<T, kTokens>(sums, current[0], x);
            wgmma<T, kTokens>(sums, current[1], x + 2);
            if (scales.splits_blocks()) {
                commit_wgmma();
                change_group();
            }
            begin_wgmma();
            wgmma<T, kTokens>(sums, current[2], x + 4);
            wgmma<T, kTokens>(sums, current[3], x + 6);
            commit_wgmma();
            wait_for_wgmma<1>();
            // The wgmma of the block of inputs before this one have read its stage.
            if (block > 0 && lane < kCluster) arrive_in_block(last_empty, lane);
            last_empty = empty + position.index * 8;
            position.advance();
            if (block + 1 < blocks) load_fragments(next);
        };
        load_fragments(a[0]);
        for (int32_t block = 0; block < blocks; block += 2) {
            multiply(block, a[0], a[1]);
            if (block + 1 < blocks) multiply(block + 1, a[1], a[0]);
        }
        wait_for_wgmma<0>(sums);
        if (lane < kCluster) arrive_in_block(last_empty, lane);

        using Output = OutputStage<T, kTileOutputs / kConsumers>;
        Output output(output_stage, warp / 4, out, bias, weight.n, first_output - warp % 4 * 16);
        output.template write<kTokens / Output::kTokens>(int64_t{token_tile} * kTokens, tokens, [&](int round) {
#pragma unroll
            for (int j = 0; j < Output::kTokens / 8; ++j)
                output.put(warp % 4 * 16, j, sums + (round * Output::kTokens / 8 + j) * 4, scales.scale(0),
                           scales.scale(1));
        });
    }
}

#endif  // TL_HAS_WGMMA

// PRECOND: grid a multiple of kCluster, block kThreads, Stage::kSharedBytes of shared memory. weight_map: boxes of
// kTileOutputs rows x one block of inputs, swizzled if 16 bits wide; x_map: boxes of kTokens / kCluster rows, swizzled.
template <typename T, bool kQuantized, int kTokens>
__global__ void __launch_bounds__(kThreads, 1) TL_CLUSTER_OF(kCluster)
    linear_prefill_sm90_kernel(const __grid_constant__ CUtensorMap weight_map,
                               const __grid_constant__ CUtensorMap x_map, PackedWeight weight, const float* bias,
                               int64_t tokens, LinearOutput out) {
#if TL_HAS_WGMMA
    using Stage = Stage<T, kQuantized, kTokens>;
    extern __shared__ unsigned char shared[];
    const uint32_t stages = (shared_address(shared) + 1023) / 1024 * 1024;
    const uint32_t output_stages = stages + Stage::kCount * Stage::kBytes;
    const uint32_t full = output_stages + kConsumers * Stage::kOutputBytes, empty = full + Stage::kCount * 8;
    if (threadIdx.x == 0) {
        for (int i = 0; i < Stage::kCount; ++i) {
            init_barrier(full + i * 8, 1);
            init_barrier(empty + i * 8, kCluster * kConsumers * kWarpgroup / 32);
        }
        publish_barriers();
    }
    cluster_barrier();
    wait_for_predecessor();
    release_successor();
    const TileOrder order(tokens, weight.n_padded, kTokens);
    // Registers per thread: 40 + 2 * 232 of the 3 * 168 that the block has.
    if (threadIdx.x < kWarpgroup) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0)
            produce<Stage>(weight_map, x_map, order, weight.k_padded / kBlockInputs, kTokens, stages, full, empty);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        const int consumer = threadIdx.x / kWarpgroup - 1;
        unsigned char* output_stage =
            shared + (output_stages - shared_address(shared)) + consumer * Stage::kOutputBytes;
        consume<T, kQuantized, kTokens>(weight, bias, order, tokens, out, stages, full, empty,
                                        reinterpret_cast<float*>(output_stage));
    }
    cluster_barrier();  // the other block may still copy into this one's stages and arrive at its barriers
#else
    __trap();  // not dispatched: DeviceTraits::sm90a
#endif
}

template <typename T, bool kQuantized, int kTokens>
void launch(cudaStream_t cuda_stream, DType activation, const LinearWeight& weight, const void* x, int64_t x_row_stride,
            int64_t tokens, const LinearOutput& out) {
    using Stage = Stage<T, kQuantized, kTokens>;
    const auto kernel = linear_prefill_sm90_kernel<T, kQuantized, kTokens>;
    TL_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Stage::kSharedBytes));
    const PackedWeight packed(weight);
    const auto type = activation == DType::F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    const CUtensorMap weight_map = make_tensor_map({.data = weight.data,
                                                    .type = kQuantized ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : type,
                                                    .rows = packed.n_padded,
                                                    .cols = packed.k_padded,
                                                    .row_bytes = int64_t{packed.k_padded} * (kQuantized ? 1 : 2),
                                                    .box_rows = kTileOutputs,
                                                    .box_cols = kBlockInputs,
                                                    .swizzled = !kQuantized});
    const CUtensorMap x_map = make_tensor_map({.data = x,
                                               .type = type,
                                               .rows = tokens,
                                               .cols = weight.k,
                                               .row_bytes = x_row_stride * 2,
                                               .box_rows = kTokens / kCluster,
                                               .box_cols = kBlockInputs,
                                               .swizzled = true});
    const int64_t tiles = int64_t{ceil_div(tokens, kTokens)} * ceil_div(packed.n_padded, kCluster * kTileOutputs);
    const int64_t clusters = std::min<int64_t>(tiles, device_traits().num_sms / kCluster);
    const LaunchShape shape{dim3(static_cast<unsigned>(clusters * kCluster)), kThreads, Stage::kSharedBytes};
    launch_overlapped("launch of linear_prefill_sm90_kernel", kernel, shape, cuda_stream, weight_map, x_map, packed,
                      weight.bias, tokens, out);
}

// The tile of tokens that needs the least time: rounds of tiles over the SMs, each as long as its tokens and a fixed
// part.
int choose_tile_tokens(int32_t n, int64_t tokens) {
    constexpr int kFixedTokens = 70;
    int best = 0;
    int64_t best_cost = 0;
    for (const int tile_tokens : {256, 128, 64}) {
        const int64_t tiles = int64_t{ceil_div(tokens, tile_tokens)} * ceil_div(n, kCluster * kTileOutputs);
        const int64_t cost = ceil_div(tiles, device_traits().num_sms / kCluster) * int64_t{tile_tokens + kFixedTokens};
        if (best != 0 && cost >= best_cost) continue;
        best = tile_tokens;
        best_cost = cost;
    }
    return best;
}

}  // namespace

void linear_prefill_sm90(cudaStream_t cuda_stream, DType activation, const LinearWeight& weight, const void* x,
                         int64_t x_row_stride, int64_t tokens, const LinearOutput& out) {
    const int tile_tokens = choose_tile_tokens(weight.n, tokens);
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        const auto with_tokens = [&](auto quantized) {
            constexpr bool kQuantized = decltype(quantized)::value;
            const auto run = tile_tokens == 256   ? launch<T, kQuantized, 256>
                             : tile_tokens == 128 ? launch<T, kQuantized, 128>
                                                  : launch<T, kQuantized, 64>;
            run(cuda_stream, activation, weight, x, x_row_stride, tokens, out);
        };
        if (weight.scales != nullptr)
            with_tokens(std::true_type{});
        else
            with_tokens(std::false_type{});
    });
}

}  // namespace tinyllm::cuda
