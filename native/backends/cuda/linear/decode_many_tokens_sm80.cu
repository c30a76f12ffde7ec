// Decode linear for up to 64 tokens, a GEMM by mma.sync and cp.async (any device): y = x W^T + b, the weights read
// once.
//
//   x: T [tokens <= 64, k]; weight: packed, in tiles of 16 rows; out: LinearOutput
// A block takes 16 tiles (16-bit weights: 8) and one K split. A stage of its pipeline holds one K block of weights and
// x, which all warps share. With split-K the partial sums go to memory and reduce_splits() adds them.
// Bound by reading the weights up to about 32 tokens, beyond that by the tensor cores and by shared memory. There a
// warp takes two tiles and half of the tokens, which halves its reads of x from shared memory.
#include <algorithm>

#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/linear/decode_epilogue.cuh"
#include "backends/cuda/linear/decode_kernels.h"
#include "backends/cuda/linear/decode_sum.cuh"
#include "backends/cuda/runtime/launch.h"

namespace tinyllm::cuda {

namespace {

// Tiles and warps of a block: a stage of weights takes 32 KB in both types, so that two of them and x fit in 99 KB.
template <bool kQuantized>
constexpr int kBlockTiles = kQuantized ? 16 : 8;
constexpr int kMaxStages = 4;

// The stages of the weights. A buffer holds one K block of one tile: first the buffers of tile 0, one per stage, then
// those of tile 1, ..., then the scales of all buffers.
template <typename T, bool kQuantized>
struct WeightStages {
    using Fragments = WeightFragments<T, kQuantized>;
    const DecodeWeight& weight;
    unsigned char* data;    // kKBlockAlign-aligned
    unsigned char* scales;  // [buffers, groups_per_k_block, 16]
    Fragments fragments;

    static __host__ __device__ int32_t scale_bytes(const DecodeWeight& weight) {
        return kQuantized ? weight.groups_per_k_block * Fragments::kGroupBytes : 0;
    }
    static __host__ __device__ int32_t buffer_bytes(const DecodeWeight& weight) {
        return Fragments::kKBlockBytes + scale_bytes(weight);
    }
    __device__ WeightStages(const DecodeWeight& weight, unsigned char* shared, int buffers)
        : weight(weight), data(shared), scales(shared + buffers * Fragments::kKBlockBytes) {}

    // Starts the copy of a K block. What the lane copies becomes visible to other lanes after the wait for its cp.async
    // group and a barrier.
    __device__ void request(int buffer, int32_t tile, int32_t k_block) const {
        copy_k_block(fragments, weight, tile, k_block, shared_address(data + buffer * Fragments::kKBlockBytes),
                     shared_address(scales + buffer * scale_bytes(weight)));
    }
    __device__ const unsigned char* k_block(int buffer) const { return data + buffer * Fragments::kKBlockBytes; }
    // Scales of the lane's two rows in group `group` of the K block, which must exist.
    __device__ __half2 scales_of(int buffer, int group) const {
        const int pair = Fragments::row_pair(threadIdx.x % kWarpSize / 4);
        const unsigned char* source = scales + buffer * scale_bytes(weight) + group * Fragments::kGroupBytes;
        return reinterpret_cast<const __half2*>(source)[pair];
    }
};

// The stages of x: one K block each, T [kTokens, 128]. The 16-byte vector c of token t lies at vector c ^ (t % 8), so
// that the eight tokens of a fragment lie in different banks. Tokens and inputs beyond the last are zero.
template <typename T, int kTokens, int kThreads>
struct InputStages {
    static constexpr int kRowBytes = kKBlock * 2;
    static constexpr int kStageBytes = kTokens * kRowBytes;
    const DecodeInput& in;
    int32_t k;
    unsigned char* shared;

    static __device__ int32_t offset(int token, int vector) { return token * kRowBytes + (vector ^ (token % 8)) * 16; }

    // Starts the copy of a K block into a stage. It becomes visible after every thread's wait for its cp.async group
    // and a barrier.
    __device__ void request(int stage, int32_t k_block) const {
        constexpr int kVectors = kKBlock / 8;
        unsigned char* target = shared + stage * kStageBytes;
#pragma unroll
        for (int i = threadIdx.x; i < kTokens * kVectors; i += kThreads) {
            const int token = i / kVectors, vector = i % kVectors;
            const int32_t first = k_block * kKBlock + vector * 8;
            const T* source = static_cast<const T*>(in.x) + token * in.row_stride + first;
            unsigned char* at = target + offset(token, vector);
            const bool inside = token < in.tokens && first < k;
            if (in.aligned) {
                copy_async_16(shared_address(at), inside ? source : in.x, inside ? 16 : 0);
            } else {
#pragma unroll 1
                for (int e = 0; e < 8; ++e)
                    reinterpret_cast<T*>(at)[e] = inside && first + e < k ? __ldcg(source + e) : T(0.0f);
            }
        }
    }
};

// A warp takes kTiles tiles and 8 kTokenTiles tokens; with two tiles, the second half of the warps takes the second
// half of the tokens. PRECOND: grid (ceil(tiles / kBlockTiles), weight.k_splits), block 32 kBlockTiles, dynamic shared
// memory of num_stages * stage_bytes(); in.tokens <= 8 kTokenTiles kTiles. partial: float [k_splits, tokens, n_padded]
// where k_splits > 1.
template <typename T, bool kQuantized, int kTiles, int kTokenTiles>
__global__ void __launch_bounds__(kBlockTiles<kQuantized>* kWarpSize, 1)
    many_tokens_sm80_kernel(const __grid_constant__ DecodeWeight weight, const __grid_constant__ DecodeInput in,
                            const __grid_constant__ LinearOutput out, float* partial, const int num_stages) {
    constexpr int kTilesOfBlock = kBlockTiles<kQuantized>, kThreads = kTilesOfBlock * kWarpSize;
    using Weights = WeightStages<T, kQuantized>;
    using Input = InputStages<T, 8 * kTokenTiles * kTiles, kThreads>;
    extern __shared__ __align__(kKBlockAlign) unsigned char shared[];
    release_successor();
    const int lane = threadIdx.x % kWarpSize, warp = warp_index();
    const int block_tile = warp * kTiles % kTilesOfBlock, token_group = warp * kTiles / kTilesOfBlock;
    const int32_t first_tile = blockIdx.x * kTilesOfBlock + block_tile;
    const int32_t k_slices = kKSlices / weight.k_splits, first_k_slice = blockIdx.y * k_slices;

    // x first: the size of its stages keeps the weights aligned.
    const Input input{in, weight.k, shared};
    const Weights weights(weight, shared + num_stages * Input::kStageBytes, kTilesOfBlock * num_stages);
    const int first_buffer = block_tile * num_stages;  // of the warp's tiles
    KBlockWalk next(weight.k_blocks, first_k_slice, first_k_slice + k_slices);
    const auto request_weights = [&](int stage, const KBlockWalk& walk) {
        if (walk.ended() || token_group != 0) return;
        // A tile beyond the last is that one again; the result is dropped.
#pragma unroll
        for (int m = 0; m < kTiles; ++m)
            weights.request(first_buffer + m * num_stages + stage, min(first_tile + m, weight.num_tiles - 1),
                            walk.k_block);
    };
    const auto request_input = [&](int stage, const KBlockWalk& walk) {
        if (!walk.ended()) input.request(stage, walk.k_block);
        commit_copies();
    };
    KBlockWalk now = next;
#pragma unroll 1
    for (int stage = 0; stage + 1 < num_stages; ++stage, next.advance()) request_weights(stage, next);
    wait_for_predecessor();
    next = now;
#pragma unroll 1
    for (int stage = 0; stage + 1 < num_stages; ++stage, next.advance()) request_input(stage, next);

    KSliceSum<kTokenTiles> sums[kTiles];
    float totals[kTiles][kTokenTiles][4] = {};
    // Of the lane's token and vector for load_matrices() in token tile 0; vectors 4, 8 and 12 further are reached by ^.
    const uint32_t input_address =
        shared_address(shared) + Input::offset(8 * token_group * kTokenTiles + lane % 8, lane / 8);
    int stage = 0;
#pragma unroll 1
    for (; !now.ended(); now.advance()) {
        wait_for_copies(num_stages - 2);
        __syncthreads();  // the stage is full for all warps, and all have read the stage before it
        const int empty_stage = (stage == 0 ? num_stages : stage) - 1;
        request_weights(empty_stage, next);
        request_input(empty_stage, next);
        next.advance();
        const unsigned char* k_blocks[kTiles];
#pragma unroll
        for (int m = 0; m < kTiles; ++m) k_blocks[m] = weights.k_block(first_buffer + m * num_stages + stage);
        const uint32_t x_stage = input_address + stage * Input::kStageBytes;
        const auto x_address = [&](int j, int vector) { return (x_stage ^ vector * 16) + j * 8 * Input::kRowBytes; };
        const auto scales = [&](int m, int group) {
            return weights.scales_of(first_buffer + m * num_stages + stage, group);
        };
        const int groups_left = weight.groups - now.k_block * weight.groups_per_k_block;
        if (weight.groups_per_k_block == 1)
            add_k_block<false>(sums, weights.fragments, k_blocks, 1, 1, scales, x_address);
        else
            add_k_block<true>(sums, weights.fragments, k_blocks, weight.groups_per_k_block, groups_left, scales,
                              x_address);
        if (++stage == num_stages) stage = 0;
        if (!now.last_of_k_slice()) continue;
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
#pragma unroll
            for (int j = 0; j < kTokenTiles; ++j) {
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    totals[m][j][i] = __fadd_rn(totals[m][j][i], sums[m].template value<kQuantized>(j, i));
            }
            sums[m] = {};
        }
    }

    // Through shared memory, so that neighbouring threads write neighbouring outputs.
    constexpr int kBlockRows = kTilesOfBlock * kTileRows, kPitch = kBlockRows + 8;
    float* results = reinterpret_cast<float*>(shared);
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
        const int first = (block_tile + m) * kTileRows + 2 * Weights::Fragments::row_pair(lane / 4);
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j) {
            const int token = 8 * (token_group * kTokenTiles + j) + lane % 4 * 2;
            float* target = results + token * kPitch + first;
            *reinterpret_cast<float2*>(target) = {totals[m][j][0], totals[m][j][2]};
            *reinterpret_cast<float2*>(target + kPitch) = {totals[m][j][1], totals[m][j][3]};
        }
    }
    __syncthreads();
    store_results<T, kBlockRows, kPitch, kThreads>(weight, out, partial, results, in.tokens);
}

template <typename T, bool kQuantized>
int32_t stage_bytes(const DecodeWeight& weight, int tokens) {
    return kBlockTiles<kQuantized> * WeightStages<T, kQuantized>::buffer_bytes(weight) + tokens * kKBlock * 2;
}

// The number of stages: as many as fit, 0 if not even two do.
template <typename T, bool kQuantized>
int stages_that_fit(const DecodeWeight& weight, int tokens) {
    const int num_stages = device_traits().max_shared_bytes / stage_bytes<T, kQuantized>(weight, tokens);
    return num_stages < 2 ? 0 : std::min(num_stages, kMaxStages);
}

template <typename T, bool kQuantized, int kTiles, int kTokenTiles>
void launch(cudaStream_t cuda_stream, const DecodeWeight& weight, const DecodeInput& input, float* partial,
            const LinearOutput& out) {
    const auto kernel = many_tokens_sm80_kernel<T, kQuantized, kTiles, kTokenTiles>;
    constexpr int kTokens = 8 * kTokenTiles * kTiles;
    const int num_stages = stages_that_fit<T, kQuantized>(weight, kTokens);
    TL_CHECK(num_stages > 0);
    const int32_t bytes = num_stages * stage_bytes<T, kQuantized>(weight, kTokens);
    allow_all_shared_memory(kernel);
    const dim3 blocks(ceil_div(weight.num_tiles, kBlockTiles<kQuantized>), weight.k_splits);
    launch_overlapped("launch of many_tokens_sm80_kernel", kernel,
                      {blocks, kBlockTiles<kQuantized> * kWarpSize, static_cast<size_t>(bytes)}, cuda_stream, weight,
                      input, out, partial, num_stages);
}

}  // namespace

int64_t max_many_tokens_sm80(const DecodeWeight& weight, bool quantized) {
    const int num_stages = quantized ? stages_that_fit<__half, true>(weight, kManyTokens)
                                     : stages_that_fit<__half, false>(weight, kManyTokens);
    return num_stages > 0 ? kManyTokens : kManyTokens / 2;
}

void linear_decode_many_tokens_sm80(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight,
                                    bool quantized, const DecodeInput& input, float* partial, const LinearOutput& out) {
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        const auto run = [&]<bool kQuantized>() {
            if (input.tokens <= 16)
                launch<T, kQuantized, 1, 2>(cuda_stream, weight, input, partial, out);
            else if (input.tokens <= 32)
                launch<T, kQuantized, 1, 4>(cuda_stream, weight, input, partial, out);
            else
                launch<T, kQuantized, 2, 4>(cuda_stream, weight, input, partial, out);
        };
        if (quantized)
            run.template operator()<true>();
        else
            run.template operator()<false>();
    });
}

}  // namespace tinyllm::cuda
