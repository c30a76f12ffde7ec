// GEMM for many tokens by mma.sync m16n8k16: y = x W^T + b. Weights and x pass through a cp.async pipeline in shared
// memory.
//
//   x: T [tokens, k]; weight: int8 or T [n_padded, k_padded] packed, scales f16 [groups, n_padded]
// A block computes kTileOutputs x kTileTokens of y. Its four warps split the outputs, so each weight is converted once.
// All four read all of x, and shared memory is fast enough for that.
#include "backends/cuda/device/async_copy.cuh"
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/mma.cuh"
#include "backends/cuda/linear/prefill.h"
#include "backends/cuda/linear/prefill_output.cuh"
#include "backends/cuda/linear/prefill_tile.cuh"
#include "backends/cuda/runtime/launch.h"

namespace tinyllm::cuda {

namespace {

constexpr int kTileOutputs = 128;
constexpr int kTileTokens = 128;
constexpr int kThreads = 128;
constexpr int kStages = 3;
constexpr int kWarpOutputs = 32;
constexpr int kFragments = kWarpOutputs / 16;
constexpr int kTokenTiles = kTileTokens / 8;
constexpr int kXBytes = kTileTokens * kBlockInputs * 2;

template <typename T, bool kQuantized>
constexpr int kWeightBytes = kTileOutputs * WeightReader<T, kQuantized>::kRowBytes;
template <typename T, bool kQuantized>
constexpr int kStageBytes = kWeightBytes<T, kQuantized> + kXBytes;

struct Input {
    const void* data;  // T [tokens, k]
    int64_t row_stride;
    int64_t tokens;
    bool aligned;  // has_aligned_rows()
};

// One thread's share of copying a tile of kRows rows of kVectors x 16 bytes into shared memory, block after block of
// inputs. Rows beyond the matrix are not copied: they only reach results that are not written. Swizzled: vector c of
// row r lies at vector c ^ (r % 8).
template <int kRows, int kVectors, bool kSwizzled>
class TileCopy {
public:
    static constexpr int kRowStep = kThreads / kVectors;
    static constexpr int kSteps = kRows / kRowStep;

    __device__ TileCopy(const void* data, int64_t row_bytes, int64_t first_row, int64_t rows)
        : row_bytes_(static_cast<int32_t>(row_bytes)) {
        const int row = threadIdx.x / kVectors, vector = threadIdx.x % kVectors;
        source_ = static_cast<const unsigned char*>(data) + (first_row + row) * row_bytes + vector * 16;
        target_ = (row * kVectors + (kSwizzled ? vector ^ (row % 8) : vector)) * 16;
        rows_left_ = static_cast<int>(min(rows - first_row, int64_t{kRows})) - row;
    }

    // Of block `block` to the tile at `tile`; of each row's vector only the first `valid` bytes, then zeros.
    __device__ void request(uint32_t tile, int32_t block, int valid) const {
        const unsigned char* source = source_ + int64_t{block} * (kVectors * 16);
#pragma unroll 2  // not more: the sums need the registers
        for (int i = 0; i < kSteps; ++i) {
            if (i * kRowStep < rows_left_)
                copy_async_16(tile + target_ + i * kRowStep * kVectors * 16,
                              source + int64_t{row_bytes_} * (i * kRowStep), valid);
        }
    }

    // The same for rows that are not aligned to 16 bytes.
    __device__ void copy_elements(uint32_t tile, int32_t block, int valid) const {
        const unsigned char* source = source_ + int64_t{block} * (kVectors * 16);
#pragma unroll 1
        for (int i = 0; i < kSteps; ++i) {
            if (i * kRowStep >= rows_left_) return;
            const auto* elements = reinterpret_cast<const uint16_t*>(source + int64_t{row_bytes_} * (i * kRowStep));
            uint32_t words[4] = {};
#pragma unroll
            for (int e = 0; e < 8; ++e)
                if (2 * e < valid) words[e / 2] |= uint32_t{elements[e]} << (e % 2 * 16);
            asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(tile + target_ + i * kRowStep * kVectors * 16),
                         "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                         : "memory");
        }
    }

private:
    const unsigned char* source_;
    uint32_t target_;
    int32_t row_bytes_;
    int rows_left_;
};

// PRECOND: grid (ceil(tokens / kTileTokens), ceil(n / kTileOutputs)), block kThreads, kStages * kStageBytes shared
// bytes.
template <typename T, bool kQuantized>
__global__ void __launch_bounds__(kThreads, 2)
    linear_prefill_sm80_kernel(PackedWeight weight, const float* bias, Input in, LinearOutput out) {
    extern __shared__ __align__(128) unsigned char shared[];
    wait_for_predecessor();
    release_successor();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_output = warp * kWarpOutputs;
    const int32_t first_output = blockIdx.y * kTileOutputs;
    const int64_t first_token = int64_t{blockIdx.x} * kTileTokens;
    const int32_t blocks = weight.k_padded / kBlockInputs;
    const uint32_t stages = shared_address(shared);

    float sums[kFragments][kTokenTiles * 4] = {};
    GroupScales<kQuantized> scales[kFragments] = {
        {weight, first_output + warp_output + lane / 4 * 2, lane},
        {weight, first_output + warp_output + 16 + lane / 4 * 2, lane},
    };
    WeightReader<T, kQuantized> readers[kFragments] = {{warp_output, lane}, {warp_output + 16, lane}};

    constexpr int kWeightVectors = WeightReader<T, kQuantized>::kRowBytes / 16;
    const TileCopy<kTileOutputs, kWeightVectors, !kQuantized> weight_copy(
        weight.data, int64_t{blocks} * kWeightVectors * 16, first_output, weight.n_padded);
    const TileCopy<kTileTokens, 8, true> x_copy(in.data, in.row_stride * 2, first_token, in.tokens);
    // Requests one block of inputs into a stage: the tile of weights, then that of x, zeros from input k on.
    const auto request = [&](int stage, int32_t block) {
        const uint32_t target = stages + stage * kStageBytes<T, kQuantized>;
        weight_copy.request(target, block, 16);
        const int valid = max(0, min(8, weight.k - block * kBlockInputs - static_cast<int>(threadIdx.x) % 8 * 8)) * 2;
        if (in.aligned)
            x_copy.request(target + kWeightBytes<T, kQuantized>, block, valid);
        else
            x_copy.copy_elements(target + kWeightBytes<T, kQuantized>, block, valid);
    };

#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) {
        if (stage < blocks) request(stage, stage);
        commit_copies();
    }
    int stage = 0;
    for (int32_t block = 0; block < blocks; ++block) {
        wait_for_copies<kStages - 2>();
        __syncthreads();  // also: everybody has read the stage that is filled next
        const int32_t next = block + kStages - 1;
        if (next < blocks) request(stage == 0 ? kStages - 1 : stage - 1, next);
        commit_copies();

        const uint32_t tile = stages + stage * kStageBytes<T, kQuantized>;
        const uint32_t x_row = tile + kWeightBytes<T, kQuantized> + lane % 8 * 128;
        uint32_t a[kFragments][4][4];
#pragma unroll
        for (int i = 0; i < kFragments; ++i) readers[i].fragments(tile, a[i]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int i = 0; i < kFragments; ++i) {
                float factors[2];
                const bool due = half == 0 ? block > 0 : scales[i].splits_blocks();
                if (due && scales[i].advance(factors)) {
#pragma unroll
                    for (int s = 0; s < kTokenTiles * 4; ++s) sums[i][s] *= factors[s / 2 % 2];
                }
            }
#pragma unroll
            for (int j = 0; j < kTokenTiles; ++j) {
                uint32_t b[4];
                load_matrices(b, x_row + j * 8 * 128 + ((half * 4 + lane / 8) ^ (lane % 8)) * 16);
#pragma unroll
                for (int step = 0; step < 2; ++step)
#pragma unroll
                    for (int i = 0; i < kFragments; ++i)
                        mma_m16n8k16<T>(reinterpret_cast<float (&)[4]>(sums[i][j * 4]), a[i][2 * half + step],
                                        b[2 * step], b[2 * step + 1]);
            }
        }
        stage = stage + 1 == kStages ? 0 : stage + 1;
    }

    wait_for_copies<0>();
    __syncthreads();  // all stages have been read
    using Output = OutputStage<T, kTileOutputs>;
    Output output(reinterpret_cast<float*>(shared), 0, out, bias, weight.n, first_output);
    output.template write<kTileTokens / Output::kTokens>(first_token, in.tokens, [&](int round) {
#pragma unroll
        for (int i = 0; i < kFragments; ++i)
#pragma unroll
            for (int j = 0; j < Output::kTokens / 8; ++j)
                output.put(warp_output + i * 16, j, sums[i] + (round * Output::kTokens / 8 + j) * 4, scales[i].scale(0),
                           scales[i].scale(1));
    });
}

template <typename T, bool kQuantized>
void launch(cudaStream_t cuda_stream, const LinearWeight& weight, const Input& in, const LinearOutput& out) {
    const auto kernel = linear_prefill_sm80_kernel<T, kQuantized>;
    constexpr int kSharedBytes = kStages * kStageBytes<T, kQuantized>;
    TL_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
    const LaunchShape shape{dim3(ceil_div(in.tokens, kTileTokens), ceil_div(weight.n, kTileOutputs)), kThreads,
                            kSharedBytes};
    launch_overlapped("launch of linear_prefill_sm80_kernel", kernel, shape, cuda_stream, PackedWeight(weight),
                      weight.bias, in, out);
}

}  // namespace

void linear_prefill_sm80(cudaStream_t cuda_stream, DType activation, const LinearWeight& weight, const void* x,
                         int64_t x_row_stride, int64_t tokens, const LinearOutput& out) {
    const Input in{x, x_row_stride, tokens, has_aligned_rows(x, x_row_stride, weight.k)};
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        if (weight.scales != nullptr)
            launch<T, true>(cuda_stream, weight, in, out);
        else
            launch<T, false>(cuda_stream, weight, in, out);
    });
}

}  // namespace tinyllm::cuda
