// Decode linear for up to 64 rows by mma.sync and cp.async (any device): y = x W^T + b, the weights read once.
//
//   x: T [rows <= 64, k]; weight: packed, in tiles of 16 rows; out: LinearOutput
// A block takes 16 tiles (16-bit weights: 8) and one chunk of k; weights and x go unit by unit through a ring that the
// block shares. Where k is cut into several chunks, the partial sums go to memory and join_chunks() adds them.
// Bound by reading the weights up to about 32 rows, then by the tensor cores and by the shared memory that feeds them:
// there a warp takes two tiles and half of the rows of x, which reads x half as often from shared memory.
#include <algorithm>

#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/linear/decode_kernels.h"
#include "backends/cuda/linear/decode_sum.cuh"
#include "backends/cuda/linear/output.cuh"
#include "backends/cuda/runtime/launch.h"

namespace tinyllm::cuda {

namespace {

// Tiles and warps of a block: a stage of weights takes 32 KB in both types, so that two fit 99 KB beside x.
template <bool kQuantized>
constexpr int kBlockTiles = kQuantized ? 16 : 8;
constexpr int kMaxDepth = 4;

// A ring of units of a block's tiles: all weights, slot by slot of each tile, then all scales.
template <typename T, bool kQuantized>
struct WeightRing {
    using Fragments = WeightFragments<T, kQuantized>;
    const DecodeWeight& weight;
    unsigned char* data;    // kUnitAlign-aligned
    unsigned char* scales;  // [slots, groups_per_unit, 16]
    Fragments fragments;

    static __host__ __device__ int32_t scale_bytes(const DecodeWeight& weight) {
        return kQuantized ? weight.groups_per_unit * Fragments::kGroupBytes : 0;
    }
    static __host__ __device__ int32_t slot_bytes(const DecodeWeight& weight) {
        return Fragments::kUnitBytes + scale_bytes(weight);
    }
    __device__ WeightRing(const DecodeWeight& weight, unsigned char* shared, int slots)
        : weight(weight), data(shared), scales(shared + slots * Fragments::kUnitBytes) {}

    // Starts the copy of a unit; the lane's part becomes visible to others after its group and a barrier.
    __device__ void request(int slot, int32_t tile, int32_t unit) const {
        copy_unit(fragments, weight, tile, unit, shared_address(data + slot * Fragments::kUnitBytes),
                  shared_address(scales + slot * scale_bytes(weight)));
    }
    __device__ const unsigned char* unit(int slot) const { return data + slot * Fragments::kUnitBytes; }
    // Scales of the lane's two rows in group `group` of the unit, which must exist.
    __device__ __half2 scales_of(int slot, int group) const {
        const int pair = Fragments::row_pair(threadIdx.x % kWarpSize / 4);
        const unsigned char* source = scales + slot * scale_bytes(weight) + group * Fragments::kGroupBytes;
        return reinterpret_cast<const __half2*>(source)[pair];
    }
};

// A ring of units of x: T [kColumns, 128] each, 16-byte chunk c of row r at chunk c ^ (r % 8), so that eight rows of a
// fragment lie in different banks. Rows and inputs beyond the last are zero.
template <typename T, int kColumns, int kThreads>
struct InputRing {
    static constexpr int kRowBytes = kUnit * 2;
    static constexpr int kStageBytes = kColumns * kRowBytes;
    const DecodeInput& in;
    int32_t k;
    unsigned char* shared;

    static __device__ int32_t offset(int row, int chunk) { return row * kRowBytes + (chunk ^ (row % 8)) * 16; }

    // Starts the copy of a unit into a stage; every thread's part becomes visible after its group and a barrier.
    __device__ void request(int stage, int32_t unit) const {
        constexpr int kChunks = kUnit / 8;
        unsigned char* target = shared + stage * kStageBytes;
#pragma unroll
        for (int i = threadIdx.x; i < kColumns * kChunks; i += kThreads) {
            const int row = i / kChunks, chunk = i % kChunks;
            const int32_t first = unit * kUnit + chunk * 8;
            const T* source = static_cast<const T*>(in.x) + row * in.row_stride + first;
            unsigned char* at = target + offset(row, chunk);
            const bool inside = row < in.rows && first < k;
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

// A warp takes kTiles tiles and 8 kColumnTiles rows of x; with two tiles, the second half of the warps takes the second
// half of the rows. PRECOND: grid (ceil(tiles / kBlockTiles), weight.chunks), block 32 kBlockTiles, dynamic shared
// memory of depth * stage_bytes(); in.rows <= 8 kColumnTiles kTiles. partial: float [chunks, rows, n_padded] where
// chunks > 1.
template <typename T, bool kQuantized, int kTiles, int kColumnTiles>
__global__ void __launch_bounds__(kBlockTiles<kQuantized>* kWarpSize, 1)
    many_rows_sm80_kernel(const __grid_constant__ DecodeWeight weight, const __grid_constant__ DecodeInput in,
                          const __grid_constant__ LinearOutput out, float* partial, const int depth) {
    constexpr int kTilesOfBlock = kBlockTiles<kQuantized>, kThreads = kTilesOfBlock * kWarpSize;
    using Ring = WeightRing<T, kQuantized>;
    using Input = InputRing<T, 8 * kColumnTiles * kTiles, kThreads>;
    extern __shared__ __align__(kUnitAlign) unsigned char shared[];
    release_successor();
    const int lane = threadIdx.x % kWarpSize, warp = warp_index();
    const int block_tile = warp * kTiles % kTilesOfBlock, column_group = warp * kTiles / kTilesOfBlock;
    const int32_t first_tile = blockIdx.x * kTilesOfBlock + block_tile;
    const int32_t slices = kSlices / weight.chunks, first_slice = blockIdx.y * slices;

    // x first: the size of its stages keeps both rings aligned.
    const Input input{in, weight.k, shared};
    const Ring ring(weight, shared + depth * Input::kStageBytes, kTilesOfBlock * depth);
    const int first_slot = block_tile * depth;  // of the warp's tiles
    UnitWalk next(weight.units, first_slice, first_slice + slices);
    const auto request_weights = [&](int slot, const UnitWalk& walk) {
        if (walk.ended() || column_group != 0) return;
        // A tile beyond the last is that one again; the result is dropped.
#pragma unroll
        for (int m = 0; m < kTiles; ++m)
            ring.request(first_slot + m * depth + slot, min(first_tile + m, weight.num_tiles - 1), walk.unit);
    };
    const auto request_input = [&](int stage, const UnitWalk& walk) {
        if (!walk.ended()) input.request(stage, walk.unit);
        commit_copies();
    };
    UnitWalk now = next;
#pragma unroll 1
    for (int slot = 0; slot + 1 < depth; ++slot, next.advance()) request_weights(slot, next);
    wait_for_predecessor();
    next = now;
#pragma unroll 1
    for (int slot = 0; slot + 1 < depth; ++slot, next.advance()) request_input(slot, next);

    SliceSum<kColumnTiles> sums[kTiles];
    float totals[kTiles][kColumnTiles][4] = {};
    // Of the lane's row and chunk for load_matrices() in column tile 0; chunks 4, 8 and 12 further are reached by ^.
    const uint32_t input_address =
        shared_address(shared) + Input::offset(8 * column_group * kColumnTiles + lane % 8, lane / 8);
    int slot = 0;
#pragma unroll 1
    for (; !now.ended(); now.advance()) {
        wait_for_copies(depth - 2);
        __syncthreads();  // the unit is there for all warps, and all have left the slot before this one
        const int free_slot = (slot == 0 ? depth : slot) - 1;
        request_weights(free_slot, next);
        request_input(free_slot, next);
        next.advance();
        const unsigned char* units[kTiles];
#pragma unroll
        for (int m = 0; m < kTiles; ++m) units[m] = ring.unit(first_slot + m * depth + slot);
        const uint32_t stage = input_address + slot * Input::kStageBytes;
        const auto x_address = [&](int j, int chunk) { return (stage ^ chunk * 16) + j * 8 * Input::kRowBytes; };
        const auto scales = [&](int m, int group) { return ring.scales_of(first_slot + m * depth + slot, group); };
        const int groups_left = weight.groups - now.unit * weight.groups_per_unit;
        if (weight.groups_per_unit == 1)
            add_unit<false>(sums, ring.fragments, units, 1, 1, scales, x_address);
        else
            add_unit<true>(sums, ring.fragments, units, weight.groups_per_unit, groups_left, scales, x_address);
        if (++slot == depth) slot = 0;
        if (!now.last_of_slice()) continue;
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
#pragma unroll
            for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    totals[m][j][i] = __fadd_rn(totals[m][j][i], sums[m].template value<kQuantized>(j, i));
            }
            sums[m] = {};
        }
    }

    // By way of shared memory, so that neighbouring threads write neighbouring outputs.
    constexpr int kBlockRows = kTilesOfBlock * kTileRows, kPitch = kBlockRows + 8;
    float* results = reinterpret_cast<float*>(shared);
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
        const int first = (block_tile + m) * kTileRows + 2 * Ring::Fragments::row_pair(lane / 4);
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) {
            const int row = 8 * (column_group * kColumnTiles + j) + lane % 4 * 2;
            float* target = results + row * kPitch + first;
            *reinterpret_cast<float2*>(target) = {totals[m][j][0], totals[m][j][2]};
            *reinterpret_cast<float2*>(target + kPitch) = {totals[m][j][1], totals[m][j][3]};
        }
    }
    __syncthreads();
    const int32_t n_padded = weight.num_tiles * kTileRows;
#pragma unroll 1
    for (int i = threadIdx.x; i < in.rows * (kBlockRows / 2); i += kThreads) {
        const int row = i / (kBlockRows / 2), output = i % (kBlockRows / 2) * 2;
        const int32_t first = blockIdx.x * kBlockRows + output;
        if (first >= n_padded) continue;
        const float2 y = *reinterpret_cast<const float2*>(results + row * kPitch + output);
        if (weight.chunks > 1) {
            const int64_t at = (int64_t{blockIdx.y} * in.rows + row) * n_padded + first;
            *reinterpret_cast<float2*>(partial + at) = y;
        } else {
            Addend<T> addend;
            addend.read(out, weight.n, row, first);
            write_outputs<T>(out, weight.bias, weight.n, row, first, y, addend);
        }
    }
}

template <typename T, bool kQuantized>
int32_t stage_bytes(const DecodeWeight& weight, int columns) {
    return kBlockTiles<kQuantized> * WeightRing<T, kQuantized>::slot_bytes(weight) + columns * kUnit * 2;
}

// Slots of the rings: as many as fit, 0 where not even two do.
template <typename T, bool kQuantized>
int ring_depth(const DecodeWeight& weight, int columns) {
    const int depth = device_traits().max_shared_bytes / stage_bytes<T, kQuantized>(weight, columns);
    return depth < 2 ? 0 : std::min(depth, kMaxDepth);
}

template <typename T, bool kQuantized, int kTiles, int kColumnTiles>
void launch(cudaStream_t cuda_stream, const DecodeWeight& weight, const DecodeInput& input, float* partial,
            const LinearOutput& out) {
    const auto kernel = many_rows_sm80_kernel<T, kQuantized, kTiles, kColumnTiles>;
    constexpr int kColumns = 8 * kColumnTiles * kTiles;
    const int depth = ring_depth<T, kQuantized>(weight, kColumns);
    TL_CHECK(depth > 0);
    const int32_t bytes = depth * stage_bytes<T, kQuantized>(weight, kColumns);
    allow_all_shared_memory(kernel);
    const dim3 blocks(ceil_div(weight.num_tiles, kBlockTiles<kQuantized>), weight.chunks);
    launch_overlapped("launch of many_rows_sm80_kernel", kernel,
                      {blocks, kBlockTiles<kQuantized> * kWarpSize, static_cast<size_t>(bytes)}, cuda_stream, weight,
                      input, out, partial, depth);
}

}  // namespace

int64_t max_many_rows_sm80(const DecodeWeight& weight, bool quantized) {
    const int depth =
        quantized ? ring_depth<__half, true>(weight, kManyRows) : ring_depth<__half, false>(weight, kManyRows);
    return depth > 0 ? kManyRows : kManyRows / 2;
}

void linear_decode_many_sm80(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, bool quantized,
                             const DecodeInput& input, float* partial, const LinearOutput& out) {
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        const auto run = [&]<bool kQuantized>() {
            if (input.rows <= 16)
                launch<T, kQuantized, 1, 2>(cuda_stream, weight, input, partial, out);
            else if (input.rows <= 32)
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
