// Decode linear for few tokens, a GEMV on the tensor cores: y = RMSNorm(x) W^T + b (the norm is optional).
//
//   x: T [tokens <= 8, k]; weight: packed, in tiles of 16 rows; out: LinearOutput
// Bound by reading the weights once. All of x lies in shared memory. A block takes one tile of 16 weight rows after the
// other. Its warps have three roles:
//   consumer   kKSlices warps; each sums one K slice of every tile (sliced-K).
//   epilogue   one warp; adds the sums of the K slices and writes y.
//   producer   one warp; copies weights by TMA into the stages of the pipeline.
// No role waits for another longer than the pipeline between them makes it, and every SM gets the same number of tiles
// to within one.
//
// The blocks of the next kernel start as soon as an SM has room and fill their pipelines before their input is there.
// So two blocks must fit on an SM: memory then stays busy while one kernel ends and the next one fetches its input.
#include <algorithm>

#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/linear/decode_few_tokens_pipeline.cuh"
#include "backends/cuda/linear/decode_kernels.h"
#include "backends/cuda/linear/decode_sum.cuh"
#include "backends/cuda/linear/output.cuh"
#include "backends/cuda/runtime/launch.h"
#include "backends/cuda/runtime/tensor_map.h"

namespace tinyllm::cuda {

namespace {

constexpr int kConsumerThreads = kKSlices * kWarpSize;
constexpr int kEpilogueWarp = kKSlices, kProducerWarp = kKSlices + 1;

// Partial sums of a tile: float4 [kKSlices, 8, pairs_of(tokens)], two outputs of two tokens each.
constexpr int kBuffers = 2;
__host__ __device__ constexpr int32_t pairs_of(int32_t tokens) { return (tokens + 1) / 2; }
__host__ __device__ constexpr int32_t buffer_elements(int32_t tokens) { return kKSlices * 8 * pairs_of(tokens); }

// The sums of the K slices on their way from the consumer warps to the epilogue warp, with a full and an empty barrier
// per buffer. One lane writes a float4, one lane reads it, and each of them arrives at the barriers for itself: the
// tools that look for races can follow that.
struct PartialSums {
    float4* data;
    uint32_t barriers;
    int32_t elements;  // of a buffer

    static __host__ __device__ int32_t bytes(int32_t tokens) {
        return kBuffers * (buffer_elements(tokens) * static_cast<int32_t>(sizeof(float4)) + 16);
    }
    __device__ PartialSums(unsigned char* shared, int32_t tokens)
        : data(reinterpret_cast<float4*>(shared)),
          barriers(shared_address(data + kBuffers * buffer_elements(tokens))),
          elements(buffer_elements(tokens)) {}
    __device__ void init() const {
        for (int buffer = 0; buffer < kBuffers; ++buffer) {
            init_barrier(full(buffer), elements);
            init_barrier(empty(buffer), elements / kKSlices);
        }
    }
    __device__ uint32_t full(int buffer) const { return barriers + buffer * 16; }
    __device__ uint32_t empty(int buffer) const { return barriers + buffer * 16 + 8; }
};

// Adds the sums of the K slices, which lie 8 pairs apart from `sums` on, in the order of linear/decode_order.h.
__device__ void reduce_k_slices(const float4* sums, int pairs, int k_splits, float (&total)[4]) {
    const int last_of_split = kKSlices / k_splits - 1;  // all bits below a power of two
    float k_split[4] = {};
    float4 sum[kKSlices / 2];
#pragma unroll
    for (int k_slice = 0; k_slice < kKSlices; ++k_slice) {
        if (k_slice % (kKSlices / 2) == 0) {
#pragma unroll
            for (int i = 0; i < kKSlices / 2; ++i) sum[i] = sums[(k_slice + i) * 8 * pairs];
        }
        k_split[0] += sum[k_slice % (kKSlices / 2)].x;
        k_split[1] += sum[k_slice % (kKSlices / 2)].y;
        k_split[2] += sum[k_slice % (kKSlices / 2)].z;
        k_split[3] += sum[k_slice % (kKSlices / 2)].w;
        if ((k_slice & last_of_split) != last_of_split) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            total[i] += k_split[i];
            k_split[i] = 0;
        }
    }
}

// A consumer warp: loads x together with the others, then sums its K slice of every tile.
template <typename T, bool kQuantized>
__device__ void run_consumer(const DecodeWeight& weight, const DecodeInput& in,
                             const WeightPipeline<T, kQuantized>& pipeline, const PartialSums& partial,
                             unsigned char* x, int k_slice) {
    PipelineConsumer<T, kQuantized> weights(pipeline, k_slice);
    if (in.norm != nullptr) {
        const NormedInput<T, kConsumerThreads> normed(in, weight.k);
        wait_for_predecessor();
        normed.load(in, weight.k, weight.k_blocks, x);
    } else {
        wait_for_predecessor();
        load_input<T, kConsumerThreads>(in, weight.k, weight.k_blocks, x);
    }

    // Lanes beyond the last token read the last one again; their results are dropped.
    const int lane = threadIdx.x % kWarpSize;
    const uint32_t x_row =
        shared_address(x) +
        (min(lane % 8, in.tokens - 1) * input_pitch(weight.k_blocks) + lane / 8 * 8 + k_slice * kKBlock) * 2;
    const int pairs = pairs_of(in.tokens);
    float4* const target = partial.data + (k_slice * 8 + lane / 4) * pairs + lane % 4;
    int turn = 0;
#pragma unroll 1
    for (int32_t tile = blockIdx.x; tile < weight.num_tiles; tile += gridDim.x, ++turn) {
        KSliceSum<1> sum[1];
#pragma unroll 1
        for (int32_t first = 0; first < weight.k_blocks; first += kKSlices) {
            weights.wait();
            const int32_t k_block = first + k_slice;
            if (k_block < weight.k_blocks) {
                const unsigned char* k_blocks[1] = {weights.k_block()};
                const auto x_address = [&](int, int vector) { return x_row + (first * kKBlock + vector * 8) * 2; };
                const auto scales = [&](int, int group) { return weights.scales(group); };
                if (weight.groups_per_k_block == 1)
                    add_k_block<false>(sum, weights.fragments(), k_blocks, 1, 1, scales, x_address);
                else
                    add_k_block<true>(sum, weights.fragments(), k_blocks, weight.groups_per_k_block,
                                      weight.groups - k_block * weight.groups_per_k_block, scales, x_address);
            }
            weights.release();
        }
        const int buffer = turn % kBuffers;
        wait_for_phase(partial.empty(buffer), turn / kBuffers % 2 ^ 1);
        if (lane % 4 < pairs) {
            target[buffer * partial.elements] =
                make_float4(sum[0].template value<kQuantized>(0, 0), sum[0].template value<kQuantized>(0, 1),
                            sum[0].template value<kQuantized>(0, 2), sum[0].template value<kQuantized>(0, 3));
            arrive(partial.full(buffer));
        }
        __syncwarp();
    }
}

// The epilogue warp: adds the K slices of every tile and writes y. A lane has two outputs of two tokens.
template <typename T>
__device__ void run_epilogue(const DecodeWeight& weight, const DecodeInput& in, const PartialSums& partial,
                             const LinearOutput& out) {
    const int lane = threadIdx.x % kWarpSize, pairs = pairs_of(in.tokens), token = lane % pairs * 2;
    const int output = 2 * WeightFragments<T, true>::row_pair(lane / pairs);
    const bool has_second = token + 1 < in.tokens;
    wait_for_predecessor();
    if (lane >= 8 * pairs) return;
    // One tile ahead: while weights stream, a load takes as long as everything that was requested before it.
    Addend<T> next[2];
    const auto read_addends = [&](int32_t tile) {
        if (tile >= weight.num_tiles) return;
        const int32_t first = tile * kTileRows + output;
        next[0].read(out, weight.n, token, first);
        if (has_second) next[1].read(out, weight.n, token + 1, first);
    };
    read_addends(blockIdx.x);
    int turn = 0;
#pragma unroll 1
    for (int32_t tile = blockIdx.x; tile < weight.num_tiles; tile += gridDim.x, ++turn) {
        const int first = tile * kTileRows + output, buffer = turn % kBuffers;
        const Addend<T> addends[2] = {next[0], next[1]};
        read_addends(tile + gridDim.x);
        wait_for_phase(partial.full(buffer), turn / kBuffers % 2);
        float total[4] = {};
        reduce_k_slices(partial.data + buffer * partial.elements + lane, pairs, weight.k_splits, total);
        arrive(partial.empty(buffer));
        write_outputs<T>(out, weight.bias, weight.n, token, first, {total[0], total[2]}, addends[0]);
        if (has_second)
            write_outputs<T>(out, weight.bias, weight.n, token + 1, first, {total[1], total[3]}, addends[1]);
    }
}

// PRECOND: block of the consumer warps, the epilogue warp and, with TMA, the producer warp; dynamic shared memory of
// shared_bytes(.., stages).
template <typename T, bool kQuantized>
__global__ void __launch_bounds__(allocated_threads((kProducerWarp + 1) * kWarpSize), kQuantized ? 2 : 1)
    few_tokens_kernel(const __grid_constant__ DecodeWeight weight, const __grid_constant__ CUtensorMap weight_map,
                      const __grid_constant__ CUtensorMap scale_map, const __grid_constant__ DecodeInput in,
                      const __grid_constant__ LinearOutput out, const int stages) {
    extern __shared__ __align__(kKBlockAlign) unsigned char shared[];  // pipeline, partial sums, x
    release_successor();
    const WeightPipeline<T, kQuantized> pipeline(weight, shared, stages);
    const PartialSums partial(shared + PipelineLayout<T, kQuantized>::bytes(weight, stages), in.tokens);
    unsigned char* const x = reinterpret_cast<unsigned char*>(partial.data) + PartialSums::bytes(in.tokens);
    if (threadIdx.x == 0) {
        partial.init();
        pipeline.init();
    }
    __syncthreads();
    const int warp = warp_index();
    if (warp < kKSlices) {
        run_consumer<T, kQuantized>(weight, in, pipeline, partial, x, warp);
    } else if (warp == kEpilogueWarp) {
        run_epilogue<T>(weight, in, partial, out);
    } else {
        if constexpr (kHasTma) pipeline.produce(weight_map, scale_map);
    }
}

template <typename T, bool kQuantized>
int32_t shared_bytes(const DecodeWeight& weight, int32_t tokens, bool normed, int stages) {
    return PipelineLayout<T, kQuantized>::bytes(weight, stages) + PartialSums::bytes(tokens) +
           input_bytes(weight.k_blocks, tokens, normed);
}

// The number of stages: as many as fit in `limit` bytes; if not even two do, as many as fit in one block; 0 if that is
// not possible either.
template <typename T, bool kQuantized>
int stages_that_fit(const DecodeWeight& weight, int32_t tokens, bool normed, int32_t limit) {
    for (const int32_t bytes : {limit, device_traits().max_shared_bytes}) {
        for (int stages = kMaxStages; stages >= 2; --stages)
            if (shared_bytes<T, kQuantized>(weight, tokens, normed, stages) <= bytes) return stages;
    }
    return 0;
}

// Stages for everything that a block reads, at least 2.
int stages_of_block(const DecodeWeight& weight, unsigned blocks) {
    return static_cast<int>(std::max(2u, ceil_div(weight.num_tiles, blocks) * ceil_div(weight.k_blocks, kKSlices)));
}

template <typename T, bool kQuantized>
void launch(cudaStream_t cuda_stream, const DecodeWeight& weight, const DecodeInput& input, const LinearOutput& out) {
    const auto kernel = few_tokens_kernel<T, kQuantized>;
    const unsigned blocks = std::min(weight.num_tiles, device_traits().num_sms);
    const BlockShare share = block_share(weight.hints, blocks);
    const int stages =
        std::min(stages_that_fit<T, kQuantized>(weight, input.tokens, input.norm != nullptr, share.limit),
                 stages_of_block(weight, blocks));
    const int32_t needed = shared_bytes<T, kQuantized>(weight, input.tokens, input.norm != nullptr, stages);
    const int32_t bytes = std::max(needed, share.least);
    allow_all_shared_memory(kernel);
    const bool use_tma = device_traits().programmatic_launch;
    const int64_t n_padded = int64_t{weight.num_tiles} * kTileRows;
    CUtensorMap weight_map = {}, scale_map = {};
    if (use_tma)
        weight_map =
            make_tensor_map({.data = weight.data,
                             .type = kQuantized ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_UINT16,
                             .rows = n_padded,
                             .cols = weight.k_padded,
                             .row_bytes = int64_t{weight.k_padded} * (kQuantized ? 1 : 2),
                             .box_rows = kTileRows,
                             .box_cols = kQuantized ? 128 : 64,
                             .swizzled = true});
    if (use_tma && kQuantized)
        scale_map = make_tensor_map({.data = weight.scales,
                                     .type = CU_TENSOR_MAP_DATA_TYPE_UINT16,
                                     .rows = weight.groups,
                                     .cols = n_padded,
                                     .row_bytes = n_padded * 2,
                                     .box_rows = PipelineLayout<T, kQuantized>::stage_groups(weight),
                                     .box_cols = kTileRows});
    const unsigned warps = use_tma ? kProducerWarp + 1 : kEpilogueWarp + 1;
    launch_overlapped("launch of few_tokens_kernel", kernel, {blocks, warps * kWarpSize, static_cast<size_t>(bytes)},
                      cuda_stream, weight, weight_map, scale_map, input, out, stages);
}

}  // namespace

bool fits_few_tokens(const DecodeWeight& weight, bool quantized, int64_t tokens, bool normed) {
    if (tokens > kFewTokens || (normed && weight.k > NormedInput<__half, kConsumerThreads>::kMaxNormed)) return false;
    const int32_t few = static_cast<int32_t>(tokens);
    const int32_t limit = device_traits().max_shared_bytes;
    return (quantized ? stages_that_fit<__half, true>(weight, few, normed, limit)
                      : stages_that_fit<__half, false>(weight, few, normed, limit)) > 0;
}

void linear_decode_few_tokens(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, bool quantized,
                              const DecodeInput& input, const LinearOutput& out) {
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        if (quantized)
            launch<T, true>(cuda_stream, weight, input, out);
        else
            launch<T, false>(cuda_stream, weight, input, out);
    });
}

}  // namespace tinyllm::cuda
