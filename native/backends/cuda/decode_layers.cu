// All layers of a decode step with few rows, in one kernel that stays on the SMs (compute capability 9.0 and higher).
//
//   hidden: T [rows <= 8, hidden_dim], in place; the ops and their bits are those of linear_decode_few.cu, qkv.cu and
//   attention_decode.cu
// Bound by reading the weights once. Between two kernels memory would have nothing to do while results are joined, the
// kernel ends, the next one starts and fetches its input. Here one warp of every block asks for weights, matrix after
// matrix, without ever waiting for results: only for room in its ring of stages, which holds more than memory delivers
// while the other warps pass from one op to the next. Those meet at a barrier of the grid after every op.
//
// Every block has one tile in gridDim.x of each matrix, and the block with the first tile of a matrix is the one after
// that with the last tile of the matrix before: over a few matrices all SMs read as much.
#include <algorithm>
#include <memory>
#include <cstdlib>

#include "backends/cuda/attention_tiled.h"
#include "backends/cuda/decode_layers.h"
#include "backends/cuda/attention_decode_part.cuh"
#include "backends/cuda/device/grid_barrier.cuh"
#include "backends/cuda/device/launch.cuh"
#include "backends/cuda/linear_decode_few.cuh"
#include "backends/cuda/linear_decode_kernels.h"
#include "backends/cuda/linear_decode_maps.h"
#include "backends/cuda/linear_prefill.h"

namespace tinyllm {

namespace {

enum Matrix { kQkv, kOut, kGateUp, kDown, kMatrices };

constexpr int kThreads = (kProducer + 1) * kWarpSize;
constexpr int kMaxLayersOfLaunch = 16;  // the maps are parameters, of which a kernel has 32 KB at most
constexpr int kMaxStagesOfLayers = 8;
// Fewer stages do not hold what memory delivers from one op to the next.
constexpr int kMinStagesOfLayers = 3;
#ifndef TL_INFLIGHT
#define TL_INFLIGHT 3
#endif
constexpr int kStagesInFlight = TL_INFLIGHT;
constexpr int kPartsOfSm = 2;  // most parts of attention an SM

// What differs from layer to layer.
struct LayerPointers {
    const float* bias[kMatrices];
    const float* norm[kMatrices];  // null: none
    NormWeight q_norm, k_norm;
    void* cache;
    int32_t window;
};

struct LayersParams {
    FeedMaps maps[kMaxLayersOfLaunch][kMatrices];
    LayerPointers layers[kMaxLayersOfLaunch];
    DecodeWeight weights[kMatrices];  // the shapes
    DecodeInput inputs[kMatrices];    // without the norms' weights
    LinearOutput outputs[kMatrices];
    DecodeParams attention;  // without the window
    const float* cos_sin;
    int32_t rotary_dim;
    int32_t num_layers;
    int32_t num_rows;
    int32_t stages;
    int32_t scale_bytes;
    uint32_t* barrier;
};
static_assert(sizeof(LayersParams) <= 32764);

// The block's tiles of one matrix after the other.
struct TileRotation {
    int32_t first = blockIdx.x;

    __device__ void advance(int32_t num_tiles) {
        first -= num_tiles % static_cast<int32_t>(gridDim.x);
        if (first < 0) first += gridDim.x;
    }
};

// Meeting of the readers and the joiner.
__device__ inline void op_barrier() { asm volatile("bar.sync 3, %0;" ::"n"((kSlices + 1) * kWarpSize) : "memory"); }

// Stages that attention borrows.
template <typename T, bool kQuantized, typename D>
constexpr int kStagesOfAttention =
    (D::kSharedBytes + FeedLayout<T, kQuantized>::kDataBytes - 1) / FeedLayout<T, kQuantized>::kDataBytes;

// Memory for the rings, as few tiles as there can be: one of keys and one of values a warp.
template <int kHeadDim>
using LayersDecode = Decode<kHeadDim, 2 * Decode<kHeadDim>::kWarps * Decode<kHeadDim>::kTileBytes>;

// The readers' part of attention in layer `layer`.
template <typename T, bool kQuantized, typename D>
__device__ void attend(const LayersParams& params, const LayerPointers& layer, FeedReader<T, kQuantized>& reader,
                       PartBuffers<T, D>& shared) {
    constexpr int kBorrowed = kStagesOfAttention<T, kQuantized, D>;
    static_assert(kBorrowed <= 2 && kDecodeHeads * D::kWarps * D::kHeadDim * 4 <= FeedLayout<T, kQuantized>::kDataBytes);
    int stages[kBorrowed];
    unsigned char* memory_of[kBorrowed];
#pragma unroll
    for (int i = 0; i < kBorrowed; ++i) memory_of[i] = reader.borrow(stages[i]);
    bool waited = false;
    const auto wait_for_qkv = [&] {
        if (!waited) op_barrier();
        waited = true;
    };
    if (warp_index() < D::kWarps) {
        const DecodeParams& decode = params.attention;
        const DecodeRope rope{NewestToken::InQkv, layer.q_norm, layer.k_norm, params.cos_sin, params.rotary_dim};
        const PartMemory<D> memory{
            {memory_of[0], kBorrowed == 1 ? memory_of[0] + D::kSharedBytes / 2 : memory_of[kBorrowed - 1]},
            shared.stats,
            shared.factors[0],
            reinterpret_cast<float4*>(memory_of[0])};
        const int32_t groups = decode.shape.num_kv_heads * decode.head_groups;
        const int32_t parts = params.num_rows * groups * decode.splits;
#pragma unroll 1
        for (int32_t i = blockIdx.x; i < parts; i += gridDim.x) {
            if (i != static_cast<int32_t>(blockIdx.x)) attention_barrier<D::kThreads>();  // memory is free again
            const DecodePart part(decode, i % decode.splits, i / decode.splits % groups, i / decode.splits / groups);
            attend_part<T, D>(decode, rope, layer.window, part, memory, shared,
                              static_cast<const T*>(params.outputs[kQkv].data), static_cast<T*>(layer.cache),
                              static_cast<T*>(const_cast<void*>(params.inputs[kOut].x)), wait_for_qkv);
        }
    }
    wait_for_qkv();
#pragma unroll
    for (int i = 0; i < kBorrowed; ++i) reader.give_back(stages[i]);
    op_barrier();  // all have written their results: the joiner reports it
}

template <typename T, bool kQuantized, typename D>
__device__ void read_layers(const LayersParams& params, const WeightFeed<T, kQuantized>& feed,
                            const PartialSums& partial, unsigned char* x, PartBuffers<T, D>& shared) {
    const int slice = warp_index();
    FeedReader<T, kQuantized> reader(feed, slice);
    TileRotation tiles;
    int turn = 0;
#pragma unroll 1
    for (int32_t layer = 0; layer < params.num_layers; ++layer) {
#pragma unroll 1
        for (int matrix = 0; matrix < kMatrices; ++matrix) {
            if (matrix == kOut) attend<T, kQuantized, D>(params, params.layers[layer], reader, shared);
            const DecodeWeight& weight = params.weights[matrix];
            DecodeInput in = params.inputs[matrix];
            in.norm = params.layers[layer].norm[matrix];
            if (tiles.first < weight.num_tiles) {
                reader.start(weight, tiles.first);
                fetch_input<T>(in, weight, x, op_barrier);
                sum_tiles<T, kQuantized>(weight, in, reader, partial, x, slice, tiles.first, turn);
            } else {
                op_barrier();
            }
            tiles.advance(weight.num_tiles);
        }
    }
}

template <typename T>
__device__ void join_layers(const LayersParams& params, const PartialSums& partial) {
    const bool speaks = threadIdx.x % kWarpSize == 0;
    GridBarrier grid(params.barrier);
    TileRotation tiles;
    int turn = 0;
#pragma unroll 1
    for (int32_t layer = 0; layer < params.num_layers; ++layer) {
#pragma unroll 1
        for (int matrix = 0; matrix < kMatrices; ++matrix) {
            const bool is_first = layer == 0 && matrix == 0;
            if (!is_first && speaks) grid.wait();
            __syncwarp();
            op_barrier();
            if (matrix == kOut) {
                op_barrier();
                if (speaks) {
                    grid.arrive();
                    grid.wait();
                }
                __syncwarp();
                op_barrier();
            }
            const DecodeWeight& weight = params.weights[matrix];
            join_tiles<T>(weight, params.layers[layer].bias[matrix], params.num_rows, partial, params.outputs[matrix],
                          tiles.first, turn);
            tiles.advance(weight.num_tiles);
            __syncwarp();
            const bool is_last = layer == params.num_layers - 1 && matrix == kDown;
            if (!is_last && speaks) grid.arrive();
        }
    }
}

template <typename T, bool kQuantized, typename D>
__device__ void produce_layers(const LayersParams& params, const WeightFeed<T, kQuantized>& feed) {
    FeedPlace place;
    TileRotation tiles;
#pragma unroll 1
    for (int32_t layer = 0; layer < params.num_layers; ++layer) {
#pragma unroll 1
        for (int matrix = 0; matrix < kMatrices; ++matrix) {
            const int next = (matrix + 1) % kMatrices, of_layer = layer + (next == 0 ? 1 : 0);
            if (of_layer < params.num_layers) {
                prefetch_map(params.maps[of_layer][next].weights);
                if (kQuantized) prefetch_map(params.maps[of_layer][next].scales);
            }
            if (matrix == kOut)
                for (int i = 0; i < kStagesOfAttention<T, kQuantized, D>; ++i) feed.lend(place);
            const FeedMaps& maps = params.maps[layer][matrix];
            feed.produce(params.weights[matrix], maps.weights, maps.scales, tiles.first, place);
            tiles.advance(params.weights[matrix].num_tiles);
        }
    }
}

// PRECOND: a cooperative launch of one block an SM; block kThreads; dynamic shared memory of shared_bytes().
template <typename T, bool kQuantized, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1) decode_layers_kernel(const __grid_constant__ LayersParams params) {
    if constexpr (kHasCopyEngine) {
        using D = LayersDecode<kHeadDim>;
        extern __shared__ __align__(kUnitAlign) unsigned char dynamic[];  // feed, partial sums, x
        __shared__ PartBuffers<T, D> attention;
        const WeightFeed<T, kQuantized> feed(dynamic, params.stages, params.scale_bytes, min(kStagesInFlight, params.stages));
        const PartialSums partial(dynamic + FeedLayout<T, kQuantized>::bytes(params.stages, params.scale_bytes),
                                  params.num_rows);
        unsigned char* const x = reinterpret_cast<unsigned char*>(partial.data) + PartialSums::bytes(params.num_rows);
        if (threadIdx.x == 0) {
            partial.init();
            feed.init();
        }
        __syncthreads();
        const int warp = warp_index();
        if (warp < kSlices) {
            read_layers<T, kQuantized, D>(params, feed, partial, x, attention);
        } else if (warp == kJoiner) {
            join_layers<T>(params, partial);
        } else if (elect_lane()) {
            produce_layers<T, kQuantized, D>(params, feed);
        }
    } else {
        __trap();  // not dispatched: DeviceTraits::programmatic_launch
    }
}

template <typename T, bool kQuantized>
int32_t shared_bytes(const LayersParams& params, int stages) {
    int32_t input = 0;
    for (int matrix = 0; matrix < kMatrices; ++matrix)
        input = std::max(input, input_bytes(params.weights[matrix].units, params.num_rows,
                                            matrix == kQkv || matrix == kGateUp));
    return FeedLayout<T, kQuantized>::bytes(stages, params.scale_bytes) + PartialSums::bytes(params.num_rows) + input;
}

bool same_shape(const LinearWeight& a, const LinearWeight& b) {
    return a.n == b.n && a.k == b.k && a.quantization == b.quantization && a.group_length == b.group_length &&
           a.dtype == b.dtype;
}

const LinearWeight& matrix_of(const LayerWeights& layer, int matrix) {
    const LinearWeight* const all[kMatrices] = {&layer.qkv.qkv, &layer.o_proj, &layer.gate_up, &layer.down_proj};
    return *all[matrix];
}

// Sets all but layers and maps; false where the step is not one for the kernel.
bool describe(const Scratch& scratch, const StepBatch& batch, const std::vector<DecodeLayer>& layers,
              const RopeParams& rope, const DecodeBuffers& buffers, LayersParams& params) {
    const LayerWeights& first = *layers[0].weights;
    const AttentionShape& shape = layers[0].shape;
    for (const DecodeLayer& layer : layers)
        for (int matrix = 0; matrix < kMatrices; ++matrix)
            if (!same_shape(matrix_of(*layer.weights, matrix), matrix_of(first, matrix))) return false;
    const void* const x[kMatrices] = {buffers.hidden, buffers.attention, buffers.hidden, buffers.ffn};
    void* const y[kMatrices] = {buffers.qkv, buffers.hidden, buffers.ffn, buffers.hidden};
    constexpr LinearOutput::Kind kKinds[kMatrices] = {LinearOutput::Kind::Store, LinearOutput::Kind::AddTo,
                                                      LinearOutput::Kind::SiluMul, LinearOutput::Kind::AddTo};
    for (int matrix = 0; matrix < kMatrices; ++matrix) {
        const LinearWeight& weight = matrix_of(first, matrix);
        if (weight.quantization != first.qkv.qkv.quantization) return false;
        const bool normed = matrix == kQkv || matrix == kGateUp;
        if (normed && weight.k > NormedInput<__half, kReaders>::kMaxNormed) return false;
        DecodeInput& input = params.inputs[matrix];
        input.x = x[matrix];
        input.row_stride = weight.k;
        input.rows = batch.num_rows;
        input.aligned = has_aligned_rows(x[matrix], weight.k, weight.k);
        if (!input.aligned) return false;
        input.norm_eps = matrix == kQkv ? first.qkv.input_norm.eps : first.post_attention_norm.eps;
        params.weights[matrix] = decode_weight(weight);
        params.outputs[matrix] = {kKinds[matrix], y[matrix], matrix == kGateUp ? weight.n / 2 : weight.n};
    }
    // Longer contexts are for the kernel that has more memory for them, and more blocks.
    const int32_t splits = decode_splits(batch, 0);
    const int64_t parts = int64_t{batch.num_rows} * shape.num_kv_heads * decode_head_groups(shape) * splits;
    if (batch.max_kv_len > kMaxSplits * kMinSplitPages * kPageTokens || parts > kPartsOfSm * device_traits().num_sms)
        return false;
    TL_CHECK(attention_decode_scratch_bytes(batch.num_rows, shape.num_heads, shape.head_dim, splits) <= scratch.bytes);
    params.attention = decode_params(batch, shape, 0, batch.num_rows, splits, scratch.data, scratch.counters);
    params.cos_sin = buffers.cos_sin;
    params.rotary_dim = rope.rotary_dim;
    params.num_rows = batch.num_rows;
    params.barrier = scratch.counters + kGridBarrierCounter;
    return true;
}

template <typename T, bool kQuantized>
void describe_layer(const DecodeLayer& layer, FeedMaps (&maps)[kMatrices], LayerPointers& pointers) {
    const LayerWeights& weights = *layer.weights;
    pointers = {};
    for (int matrix = 0; matrix < kMatrices; ++matrix) {
        const LinearWeight& weight = matrix_of(weights, matrix);
        pointers.bias[matrix] = weight.bias;
        maps[matrix] = make_feed_maps<T, kQuantized>(decode_weight(weight));
    }
    pointers.norm[kQkv] = weights.qkv.input_norm.weight;
    pointers.norm[kGateUp] = weights.post_attention_norm.weight;
    pointers.q_norm = weights.qkv.q_norm;
    pointers.k_norm = weights.qkv.k_norm;
    pointers.cache = layer.kv.data;
    pointers.window = layer.shape.window;
}

// Sets the layers of `params` and launches, as often as it takes; false where the stages do not fit.
template <typename T, bool kQuantized, int kHeadDim>
bool launch(cudaStream_t cuda_stream, const std::vector<DecodeLayer>& layers, LayersParams& params) {
    const auto kernel = decode_layers_kernel<T, kQuantized, kHeadDim>;
    for (const DecodeWeight& weight : params.weights)
        params.scale_bytes = std::max(params.scale_bytes, FeedLayout<T, kQuantized>::scale_bytes(weight));
    cudaFuncAttributes attributes = {};
    TL_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
    const int limit = device_traits().max_shared_bytes - static_cast<int>(attributes.sharedSizeBytes);
    params.stages = kMaxStagesOfLayers;
    while (params.stages >= kMinStagesOfLayers && shared_bytes<T, kQuantized>(params, params.stages) > limit)
        --params.stages;
    if (params.stages < kMinStagesOfLayers) return false;
    allow_all_shared_memory(kernel);
    const size_t bytes = shared_bytes<T, kQuantized>(params, params.stages);

    const auto count = static_cast<int>(layers.size());
    const auto launches = static_cast<int>(ceil_div(count, kMaxLayersOfLaunch));
    for (int i = 0, next = 0; i < launches; ++i) {
        params.num_layers = count / launches + (i < count % launches ? 1 : 0);
        for (int layer = 0; layer < params.num_layers; ++layer)
            describe_layer<T, kQuantized>(layers[next++], params.maps[layer], params.layers[layer]);
        launch_cooperative("launch of decode_layers_kernel", kernel,
                           {static_cast<unsigned>(device_traits().num_sms), kThreads, bytes}, cuda_stream, params);
    }
    return true;
}

}  // namespace

bool decode_layers_cuda(cudaStream_t cuda_stream, Scratch scratch, const StepBatch& batch,
                        const std::vector<DecodeLayer>& layers, const RopeParams& rope, const DecodeBuffers& buffers) {
    const int32_t head_dim = layers[0].shape.head_dim;
    if (!device_traits().programmatic_launch || batch.num_rows == 0 || batch.num_rows > kFewRows ||
        (head_dim != 64 && head_dim != 128))
        return false;
    if (getenv("NO_LAYERS")) return false;
    const auto params = std::make_unique<LayersParams>();
    if (!describe(scratch, batch, layers, rope, buffers, *params)) return false;
    bool launched = false;
    with_activation(batch.dtype, [&](auto type) {
        using T = decltype(type);
        const auto with_weights = [&]<bool kQuantized>() {
            launched = head_dim == 64 ? launch<T, kQuantized, 64>(cuda_stream, layers, *params)
                                      : launch<T, kQuantized, 128>(cuda_stream, layers, *params);
        };
        if (layers[0].weights->qkv.qkv.quantization == QuantizationType::W8A16)
            with_weights.template operator()<true>();
        else
            with_weights.template operator()<false>();
    });
    return launched;
}

}  // namespace tinyllm
