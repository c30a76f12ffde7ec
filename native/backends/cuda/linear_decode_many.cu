// Decode linear for up to 64 rows: y = x W^T + b on tensor cores, the weights read once.
//
//   x: T [rows <= 64, k]; weight: packed, in tiles of 16 rows; out: LinearOutput
// A block takes 128 or 256 weight rows and one chunk of k. Each of its eight warps has one or two tiles and streams
// them through a ring of its own; x goes through a ring that the block shares. Where k is cut into several chunks, the
// partial sums go through memory and a second kernel adds them. Bound by reading the weights up to about 32 rows, then
// by the tensor cores and by the shared memory that feeds them.
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/launch.cuh"
#include "backends/cuda/linear_decode_kernels.h"
#include "backends/cuda/linear_decode_sum.cuh"
#include "backends/cuda/linear_output.cuh"

namespace tinyllm {

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarpSize;
constexpr int kRowBytes = kUnit * 2;  // of a row of x in a stage

// A ring of units of x: T [kColumns, 128] each, 16-byte chunk c of row r at chunk c ^ (r % 8), so that eight rows of a
// fragment lie in different banks. Rows and inputs beyond the last are zero.
template <typename T, int kColumns>
struct InputRing {
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
                for (int e = 0; e < 8; ++e)
                    reinterpret_cast<T*>(at)[e] = inside && first + e < k ? __ldcg(source + e) : T(0.0f);
            }
        }
    }
};

// Slots of the rings.
template <bool kQuantized>
constexpr int kDepth = kQuantized ? 3 : 2;

// PRECOND: grid (ceil(tiles / (kWarps * kTiles)), weight.chunks), block kThreads, dynamic shared memory of
// shared_bytes(); in.rows <= 8 kColumnTiles. partial: float [chunks, rows, n_padded] where chunks > 1.
template <typename T, bool kQuantized, int kTiles, int kColumnTiles>
__global__ void __launch_bounds__(kThreads, kTiles == 1 ? 2 : 1)
    many_rows_kernel(const __grid_constant__ DecodeWeight weight, const __grid_constant__ DecodeMaps maps,
                     const __grid_constant__ DecodeInput in, const __grid_constant__ LinearOutput out, float* partial) {
    constexpr int kSlots = kDepth<kQuantized>;
    using Ring = WeightRing<T, kQuantized>;
    using Input = InputRing<T, 8 * kColumnTiles>;
    extern __shared__ __align__(kRingAlign) unsigned char shared[];
    release_successor();
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    const Input input{in, weight.k, shared + kWarps * kTiles * kSlots * Ring::kSlotBytes};
    const int32_t first_tile = (blockIdx.x * kWarps + warp) * kTiles;
    const int32_t slices = kSlices / weight.chunks, first_slice = blockIdx.y * slices;
    const int32_t first_unit = slice_begin(weight.units, first_slice);
    const int32_t end_unit = slice_begin(weight.units, first_slice + slices);

    const Ring ring(weight, maps, shared, warp, kWarps, kSlots * kTiles, kSlots);
    const auto request_weights = [&](int slot, int32_t unit) {
        if (unit >= end_unit) return;
        // A warp beyond the last tile computes that one again and drops the result.
#pragma unroll
        for (int m = 0; m < kTiles; ++m) ring.request(slot * kTiles + m, min(first_tile + m, weight.num_tiles - 1), unit);
    };
    const auto request_input = [&](int stage, int32_t unit) {
        if (unit < end_unit) input.request(stage, unit);
        commit_copies();
    };
    for (int slot = 0; slot < kSlots; ++slot) request_weights(slot, first_unit + slot);
    wait_for_predecessor();
    for (int stage = 0; stage + 1 < kSlots; ++stage) request_input(stage, first_unit + stage);

    TileSum<kColumnTiles> sums[kTiles];
    float totals[kTiles][kColumnTiles][4] = {};
    int slot = 0;
    uint32_t parity = 0;
    int32_t unit = first_unit;
#pragma unroll 1
    for (int32_t slice = first_slice; slice < first_slice + slices; ++slice) {
        const int32_t slice_first = unit, slice_end = slice_begin(weight.units, slice + 1);
#pragma unroll 1
        for (; unit < slice_end; ++unit) {
            wait_for_copies<kSlots - 2>();
            __syncthreads();  // the unit of x is there, and all warps have left the one before
            request_input(slot == 0 ? kSlots - 1 : slot - 1, unit + kSlots - 1);
#pragma unroll
            for (int m = 0; m < kTiles; ++m) ring.wait(slot * kTiles + m, parity);
            const uint32_t stage = shared_address(input.shared + slot * Input::kStageBytes);
            add_unit(sums, ring, slot * kTiles, weight, unit, unit == slice_first, [&](int j, int chunk) {
                return stage + Input::offset(8 * j + lane % 8, chunk + lane / 8);
            });
            __syncwarp();
            request_weights(slot, unit + kSlots);
            if (++slot == kSlots) {
                slot = 0;
                parity ^= 1;
            }
        }
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

    const int32_t n_padded = weight.num_tiles * kTileRows;
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
        if (first_tile + m >= weight.num_tiles) break;
        const int32_t first = (first_tile + m) * kTileRows + 2 * Ring::row_pair(lane / 4);
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int32_t row = 8 * j + lane % 4 * 2 + i;
                if (row >= in.rows) continue;
                const float2 y = {totals[m][j][i], totals[m][j][i + 2]};
                if (weight.chunks > 1) {
                    float* target = partial + (int64_t{blockIdx.y} * in.rows + row) * n_padded + first;
                    *reinterpret_cast<float2*>(target) = y;
                } else {
                    Addend<T> addend;
                    addend.read(out, weight.n, row, first);
                    write_outputs<T>(out, weight.bias, weight.n, row, first, y, addend);
                }
            }
        }
    }
}

// Adds the chunks' partial sums. PRECOND: grid (ceil(n_padded / 2 / kThreads), rows), block kThreads.
template <typename T>
__global__ void __launch_bounds__(kThreads) join_chunks_kernel(const __grid_constant__ DecodeWeight weight, const float* partial, const int32_t rows,
                                   const __grid_constant__ LinearOutput out) {
    release_successor();
    wait_for_predecessor();
    const int32_t n_padded = weight.num_tiles * kTileRows, row = blockIdx.y;
    const int32_t first = (blockIdx.x * kThreads + threadIdx.x) * 2;
    if (first >= weight.n) return;
    Addend<T> addend;
    addend.read(out, weight.n, row, first);
    float2 y = {};
#pragma unroll
    for (int chunk = 0; chunk < kSlices; ++chunk) {
        if (chunk >= weight.chunks) break;
        const float* source = partial + (int64_t{chunk} * rows + row) * n_padded + first;
        const float2 part = __ldcg(reinterpret_cast<const float2*>(source));
        y.x += part.x;
        y.y += part.y;
    }
    write_outputs<T>(out, weight.bias, weight.n, row, first, y, addend);
}

template <typename T, bool kQuantized, int kTiles, int kColumnTiles>
constexpr int kSharedBytes = kDepth<kQuantized> * (kWarps * kTiles * WeightRing<T, kQuantized>::kSlotBytes +
                                                   InputRing<T, 8 * kColumnTiles>::kStageBytes);

template <typename T, bool kQuantized, int kTiles, int kColumnTiles>
void launch(cudaStream_t cuda_stream, const DecodeWeight& weight, const DecodeMaps& maps, const DecodeInput& input,
            float* partial, const LinearOutput& out) {
    const auto kernel = many_rows_kernel<T, kQuantized, kTiles, kColumnTiles>;
    constexpr int kBytes = kSharedBytes<T, kQuantized, kTiles, kColumnTiles>;
    TL_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
    const dim3 blocks(ceil_div(weight.num_tiles, kWarps * kTiles), weight.chunks);
    launch_overlapped("launch of many_rows_kernel", kernel, {blocks, kThreads, kBytes}, cuda_stream, weight, maps, input,
                      out, partial);
    if (weight.chunks == 1) return;
    const dim3 join_blocks(ceil_div(weight.n, 2 * kThreads), input.rows);
    launch_overlapped("launch of join_chunks_kernel", join_chunks_kernel<T>, {join_blocks, kThreads}, cuda_stream, weight,
                      partial, input.rows, out);
}

}  // namespace

int64_t max_many_rows(bool quantized) {
    const int needed = quantized ? kSharedBytes<__half, true, 2, 8> : kSharedBytes<__half, false, 2, 8>;
    return needed <= device_traits().max_shared_bytes ? kManyRows : kManyRows / 2;
}

void linear_decode_many(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, const DecodeMaps& maps,
                        bool quantized, const DecodeInput& input, float* partial, const LinearOutput& out) {
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        const auto run = [&]<bool kQuantized>() {
            if (input.rows <= 16)
                launch<T, kQuantized, 1, 2>(cuda_stream, weight, maps, input, partial, out);
            else if (input.rows <= 32)
                launch<T, kQuantized, 1, 4>(cuda_stream, weight, maps, input, partial, out);
            else
                launch<T, kQuantized, 2, 8>(cuda_stream, weight, maps, input, partial, out);
        };
        if (quantized)
            run.template operator()<true>();
        else
            run.template operator()<false>();
    });
}

}  // namespace tinyllm
