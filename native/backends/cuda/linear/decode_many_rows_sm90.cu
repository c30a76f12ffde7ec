// Decode linear for up to 64 rows by wgmma (compute capability 9.0a): y = x W^T + b, the weights read once.
//
//   x: T [rows <= 64, k], rows aligned to 16 bytes; weight: packed, in tiles of 16 rows; out: LinearOutput
// The weights are the A operand and come from registers, where int8 becomes T; x is the B operand and is read by the
// tensor cores from shared memory. A block takes 256 weight rows and one chunk of k: two warpgroups multiply, two tiles
// of 64 rows each, and one more warp keeps a ring of stages full. Where k is cut into several chunks, the partial sums
// go to memory and join_chunks() adds them.
// Bound by reading the weights. A chain of wgmma gives the same bits as the chain of mma.sync m16n8k16 over the same
// inputs, so the sums are those of the other decode kernels.
#include <algorithm>

#include "backends/cuda/device/wgmma.cuh"
#include "backends/cuda/linear/decode_kernels.h"
#include "backends/cuda/linear/decode_many_rows_pipeline.cuh"
#include "backends/cuda/linear/output.cuh"
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
constexpr int kConsumers = 2;        // warpgroups that multiply
constexpr int kTilesOfConsumer = 2;  // of 64 weight rows
constexpr int kConsumerThreads = kConsumers * kWarpgroup;
constexpr int kMaxStagesOfRing = 8;
static_assert(kConsumers * kTilesOfConsumer * 64 == kBlockRows);

// The sums of 64 rows of x need more registers than a third of the block's: the producer then is a warpgroup that gives
// its own away.
template <int kColumns>
constexpr bool kMovesRegisters = kColumns > 32;
template <int kColumns>
constexpr int kThreads = kConsumerThreads + (kMovesRegisters<kColumns> ? kWarpgroup : kWarpSize);

// Blocks that fit an SM. Where it is two, the next kernel's blocks fill their rings while this one ends.
template <int kColumns>
constexpr int kBlocksOfSm = kColumns <= 16 ? 2 : 1;

// Results of a block on their way out: float [kColumns, kPitch].
constexpr int kPitch = kBlockRows + 8;

#if TL_HAS_WGMMA

constexpr int kConsumerWarps = kConsumerThreads / kWarpSize;

// The sums of a tile of 64 weight rows in the order of linear/decode_order.h, a lane's part of each laid out as d of
// wgmma.
template <bool kQuantized, int kColumns>
struct TileSum {
    float slice[kColumns / 2] = {};  // not with 16-bit weights: their slice is one chain
    float chunk[kColumns / 2] = {};
    float scale[2] = {};  // of the chain that runs, for the lane's two weight rows

    __device__ void add_chain(const float (&chain)[kColumns / 2]) {
#pragma unroll
        for (int i = 0; i < kColumns / 2; ++i) slice[i] = __fmaf_rn(chain[i], scale[i / 2 % 2], slice[i]);
    }
    __device__ void end_slice(const float (&chain)[kColumns / 2]) {
#pragma unroll
        for (int i = 0; i < kColumns / 2; ++i) {
            chunk[i] = __fadd_rn(chunk[i], kQuantized ? slice[i] : chain[i]);
            slice[i] = 0;
        }
    }
};

// One of the warps that multiply.
template <typename T, bool kQuantized, int kColumns>
class Consumer {
public:
    using Stage = WeightStage<T, kQuantized, kColumns>;
    using Fragments = WeightFragments<T, kQuantized>;

    // `shared`: the ring's boxes.
    __device__ Consumer(const DecodeWeight& weight, const StageRing<Stage>& ring, const unsigned char* shared)
        : weight_(weight), ring_(ring), boxes_(shared), lane_(threadIdx.x % kWarpSize) {
        const int warp = threadIdx.x / kWarpSize;
        first_tile_ = warp / 4 * (kTilesOfConsumer * 4) + warp % 4;
        pair_ = Fragments::row_pair(lane_ / 4);
    }

    // Sums slices first_slice .. end_slice - 1.
    __device__ void multiply(int32_t first_slice, int32_t end_slice) {
        // With int8 weights a chain ends with the unit, and both tiles share its accumulator: while this warpgroup
        // scales and adds, the tensor cores work for the other one.
        constexpr int kChains = kQuantized ? 1 : kTilesOfConsumer;
        float chains[kChains][kColumns / 2] = {};
        uint32_t a[2][4][4];  // of this block of 64 inputs and the next, in turn
        RingPlace place;
        uint32_t last_free = 0;
#pragma unroll 1
        for (int32_t slice = first_slice; slice < min(end_slice, weight_.units); ++slice) {
#pragma unroll 1
            for (int32_t unit = slice; unit < weight_.units; unit += kSlices) {
#pragma unroll 1
                for (int part = 0; part < Stage::kParts; ++part) {
                    wait_for_phase(ring_.full(place.stage), place.parity);
#pragma unroll
                    for (int step = 0; step < kTilesOfConsumer * Stage::kBlocks; ++step) {
                        const int m = step / Stage::kBlocks, block = step % Stage::kBlocks;
                        float (&chain)[kColumns / 2] = chains[m % kChains];
                        uint32_t (&fragments)[4][4] = a[step % 2];
                        // Past the wait of step 0 the stage before this one is done with.
                        if (step == 1 && last_free != 0) {
                            __syncwarp();
                            if (lane_ == 0) arrive(last_free);
                        }
                        load_fragments(place.stage, m, block, fragments);
                        bool starts = part == 0 && unit == slice;
                        if constexpr (kQuantized) {
                            starts = block == 0 || weight_.groups_per_unit > 1;
                            if (starts) {
                                wait_for_wgmma<0>(chain);
                                if (block > 0)
                                    sums_[m].add_chain(chain);
                                else if (m > 0)
                                    sums_[m - 1].add_chain(chain);
                                else if (unit != slice)
                                    sums_[kTilesOfConsumer - 1].add_chain(chain);
                                read_scales(place.stage, m, unit, block * weight_.groups_per_unit / 2);
                            }
                        }
                        const uint64_t x = wgmma_tile(ring_.x_block(place.stage, block));
                        begin_wgmma();
                        wgmma<T, kColumns>(chain, fragments[0], x, !starts);
                        wgmma<T, kColumns>(chain, fragments[1], x + 2);
                        const bool splits = kQuantized && weight_.groups_per_unit == 4;
                        if (splits) {
                            commit_wgmma();
                            wait_for_wgmma<0>(chain);
                            sums_[m].add_chain(chain);
                            read_scales(place.stage, m, unit, 2 * block + 1);
                        }
                        if (kQuantized) begin_wgmma();
                        wgmma<T, kColumns>(chain, fragments[2], x + 4, !splits);
                        wgmma<T, kColumns>(chain, fragments[3], x + 6);
                        commit_wgmma();
                        wait_for_wgmma<1>();
                    }
                    last_free = ring_.free(place.stage);
                    place.advance(ring_.depth);
                }
            }
#pragma unroll
            for (int i = 0; i < kChains; ++i) wait_for_wgmma<0>(chains[i]);
            if constexpr (kQuantized) sums_[kTilesOfConsumer - 1].add_chain(chains[0]);
#pragma unroll
            for (int m = 0; m < kTilesOfConsumer; ++m) sums_[m].end_slice(chains[m % kChains]);
        }
    }

    // Writes the chunk's sums to float [kColumns, kPitch].
    __device__ void put(float* results) const {
#pragma unroll
        for (int m = 0; m < kTilesOfConsumer; ++m) {
            float* const first = results + (first_tile_ + 4 * m) * kTileRows + 2 * pair_;
#pragma unroll
            for (int j = 0; j < kColumns / 8; ++j) {
                float* target = first + (8 * j + lane_ % 4 * 2) * kPitch;
                const float* sums = sums_[m].chunk + 4 * j;
                *reinterpret_cast<float2*>(target) = {sums[0], sums[2]};
                *reinterpret_cast<float2*>(target + kPitch) = {sums[1], sums[3]};
            }
        }
    }

private:
    __device__ void load_fragments(int stage, int m, int block, uint32_t (&fragments)[4][4]) const {
        uint32_t words[2][Fragments::kWords];
        weights_.read(boxes_ + stage * Stage::kBytes + (first_tile_ + 4 * m) * Fragments::kBoxBytes, block, words);
#pragma unroll
        for (int step = 0; step < 4; ++step) Fragments::fragment(words, step, fragments[step]);
    }

    __device__ void read_scales(int stage, int m, int32_t unit, int group) {
        uint32_t word;
        const uint32_t address = ring_.scales_of(stage) + group * Stage::kGroupBytes +
                                 (first_tile_ + 4 * m) * Fragments::kGroupBytes + pair_ * 4;
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
        // A group beyond the last has weights 0 and no scale.
        if (group > 0 && unit * weight_.groups_per_unit + group >= weight_.groups) word = 0;
        const __half2 scales = *reinterpret_cast<const __half2*>(&word);
        sums_[m].scale[0] = __low2float(scales);
        sums_[m].scale[1] = __high2float(scales);
    }

    const DecodeWeight& weight_;
    const StageRing<Stage>& ring_;
    const Fragments weights_;
    const unsigned char* boxes_;
    int lane_, pair_;
    int first_tile_;  // of 16 rows in the block; the warp's second one is 4 further
    TileSum<kQuantized, kColumns> sums_[kTilesOfConsumer];
};

#endif  // TL_HAS_WGMMA

// PRECOND: grid (ceil(n_padded / kBlockRows), weight.chunks), block kThreads, dynamic shared memory of `depth` stages;
// rows <= kColumns. weight_map: boxes of kBlockRows x 128 bytes; x_map: boxes of kColumns x 64 inputs; both swizzled.
// partial: float [chunks, rows, n_padded] where chunks > 1.
template <typename T, bool kQuantized, int kColumns>
__global__ void __launch_bounds__(allocated_threads(kThreads<kColumns>), kBlocksOfSm<kColumns>)
    many_rows_sm90_kernel(const __grid_constant__ DecodeWeight weight, const __grid_constant__ CUtensorMap weight_map,
                          const __grid_constant__ CUtensorMap x_map, const __grid_constant__ LinearOutput out,
                          float* partial, const int32_t rows, const int depth) {
#if TL_HAS_WGMMA
    using Stage = WeightStage<T, kQuantized, kColumns>;
    extern __shared__ __align__(kUnitAlign) unsigned char shared[];
    release_successor();
    const StageRing<Stage> ring(weight, shared_address(shared), depth);
    if (threadIdx.x == 0) ring.init(kConsumerWarps);
    __syncthreads();
    const int32_t first_row = blockIdx.x * kBlockRows, slices = kSlices / weight.chunks;
    const int32_t first_slice = blockIdx.y * slices, end_slice = first_slice + slices;
    float* const results = reinterpret_cast<float*>(shared);
    const int warp = warp_index();
    if (warp >= kConsumerWarps) {
        if constexpr (kMovesRegisters<kColumns>) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (warp == kConsumerWarps && elect_lane())
            produce_stages(weight, weight_map, x_map, ring, first_row, UnitWalk(weight.units, first_slice, end_slice));
        return;
    }
    if constexpr (kMovesRegisters<kColumns>) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    wait_for_predecessor();
    Consumer<T, kQuantized, kColumns> consumer(weight, ring, shared);
    consumer.multiply(first_slice, end_slice);
    first_threads_barrier<kConsumerThreads>();  // all stages have been read
    consumer.put(results);
    first_threads_barrier<kConsumerThreads>();

    const int32_t n_padded = weight.num_tiles * kTileRows;
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * (kBlockRows / 2); i += kConsumerThreads) {
        const int row = i / (kBlockRows / 2), output = i % (kBlockRows / 2) * 2;
        const int32_t first = first_row + output;
        if (first >= n_padded) continue;
        const float2 y = *reinterpret_cast<const float2*>(results + row * kPitch + output);
        if (weight.chunks > 1) {
            *reinterpret_cast<float2*>(partial + (int64_t{blockIdx.y} * rows + row) * n_padded + first) = y;
        } else {
            Addend<T> addend;
            addend.read(out, weight.n, row, first);
            write_outputs<T>(out, weight.bias, weight.n, row, first, y, addend);
        }
    }
#else
    __trap();  // not dispatched: DeviceTraits::sm90a
#endif
}

template <typename T, bool kQuantized, int kColumns>
void launch(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, const DecodeInput& input,
            float* partial, const LinearOutput& out) {
    using Stage = WeightStage<T, kQuantized, kColumns>;
    static_assert(2 * Stage::kBytes >= kColumns * kPitch * 4);
    const dim3 blocks(ceil_div(weight.num_tiles * kTileRows, kBlockRows), weight.chunks);
    const BlockShare share = kBlocksOfSm<kColumns> == 1 ? BlockShare{device_traits().max_shared_bytes, 0}
                                                        : block_share(out.kind, blocks.x * blocks.y);
    const int depth = std::min(kMaxStagesOfRing, share.limit / Stage::bytes(weight));
    TL_CHECK(depth >= 2);
    const int32_t bytes = std::max(depth * Stage::bytes(weight), share.least);
    const auto kernel = many_rows_sm90_kernel<T, kQuantized, kColumns>;
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
                                               .rows = input.rows,
                                               .cols = weight.k,
                                               .row_bytes = input.row_stride * 2,
                                               .box_rows = kColumns,
                                               .box_cols = 64,
                                               .swizzled = true});
    launch_overlapped("launch of many_rows_sm90_kernel", kernel,
                      {blocks, kThreads<kColumns>, static_cast<size_t>(bytes)}, cuda_stream, weight, weight_map, x_map,
                      out, partial, input.rows, depth);
}

}  // namespace

void linear_decode_many_sm90(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, bool quantized,
                             const DecodeInput& input, float* partial, const LinearOutput& out) {
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        const auto with_columns = [&]<bool kQuantized>() {
            const auto run = input.rows <= 16   ? launch<T, kQuantized, 16>
                             : input.rows <= 32 ? launch<T, kQuantized, 32>
                                                : launch<T, kQuantized, 64>;
            run(cuda_stream, activation, weight, input, partial, out);
        };
        if (quantized)
            with_columns.template operator()<true>();
        else
            with_columns.template operator()<false>();
    });
}

}  // namespace tinyllm::cuda
