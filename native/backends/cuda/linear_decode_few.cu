// Decode linear for few rows: y = RMSNorm(x) W^T + b (the norm is optional).
//
//   x: T [rows <= 8, k]; weight: packed, in tiles of 16 rows; out: LinearOutput
// Bound by reading the weights once. x lies in shared memory as a whole. A block takes a tile of 16 weight rows at a
// time, each of its warps one slice of k, and joins the partial sums in shared memory: no block needs another, and
// every SM gets the same number of tiles to within one. The rings run ahead into the next tiles.
//
// The next kernel's blocks start as soon as there is room on the SM and fill their rings before their input is there.
// So two blocks must fit an SM: memory is then busy while one kernel ends and the next one fetches its input.
#include <algorithm>

#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/launch.cuh"
#include "backends/cuda/linear_decode_kernels.h"
#include "backends/cuda/linear_decode_sum.cuh"
#include "backends/cuda/linear_output.cuh"

namespace tinyllm {

namespace {

constexpr int kThreads = kSlices * kWarpSize;

// A buffer holds a tile's partial sums: float4 [kSlices, 8, pairs_of(rows)], two outputs of two rows each.
__host__ __device__ constexpr int32_t pairs_of(int32_t rows) { return (rows + 1) / 2; }
__host__ __device__ constexpr int32_t buffer_elements(int32_t rows) { return kSlices * 8 * pairs_of(rows); }

// Adds the slices' sums, 8 pairs apart from `sums` on, in the order of linear_decode_split.h.
__device__ void join_slices(const float4* sums, int pairs, int chunks, float (&total)[4]) {
    const int slices_a_chunk = kSlices / chunks;
    float chunk[4] = {};
#pragma unroll 8
    for (int slice = 0; slice < kSlices; ++slice) {
        const float4 sum = sums[slice * 8 * pairs];
        chunk[0] += sum.x;
        chunk[1] += sum.y;
        chunk[2] += sum.z;
        chunk[3] += sum.w;
        if ((slice + 1) % slices_a_chunk != 0) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            total[i] += chunk[i];
            chunk[i] = 0;
        }
    }
}

// PRECOND: block kThreads, dynamic shared memory of shared_bytes(.., depth).
template <typename T, bool kQuantized>
__global__ void __launch_bounds__(kThreads, kQuantized ? 2 : 1)
    few_rows_kernel(const __grid_constant__ DecodeWeight weight, const __grid_constant__ CUtensorMap map,
                    const __grid_constant__ DecodeInput in, const __grid_constant__ LinearOutput out, const int depth) {
    using Ring = WeightRing<T, kQuantized>;
    extern __shared__ __align__(kRingAlign) unsigned char shared[];  // rings, two buffers of partial sums, x
    release_successor();
    const int lane = threadIdx.x % kWarpSize, slice = warp_index();
    float4* partial = reinterpret_cast<float4*>(shared + kSlices * depth * Ring::slot_bytes(weight));
    unsigned char* x = reinterpret_cast<unsigned char*>(partial + 2 * buffer_elements(in.rows));

    const Ring ring(weight, map, shared, kSlices * depth, slice * depth, depth, true);
    const int32_t first_unit = slice_begin(weight.units, slice), end_unit = slice_begin(weight.units, slice + 1);
    int32_t next_unit = first_unit, next_tile = first_unit < end_unit ? blockIdx.x : weight.num_tiles;
    const auto request_next = [&](int slot) {
        if (next_tile < weight.num_tiles) {
            ring.request(slot, next_tile, next_unit);
            if (++next_unit == end_unit) {
                next_unit = first_unit;
                next_tile += gridDim.x;
            }
        }
        if (!kHasCopyEngine) commit_copies();
    };
#pragma unroll 1
    for (int slot = 0; slot < depth; ++slot) request_next(slot);
    if (in.norm != nullptr) {
        const NormedInput<T, kThreads> normed(in, weight.k);
        wait_for_predecessor();
        normed.load(in, weight.k, weight.units, x);
    } else {
        wait_for_predecessor();
        load_input<T, kThreads>(in, weight.k, weight.units, x);
    }

    // Lanes without a row of their own read the last one; their columns of the result are dropped.
    const uint32_t x_row =
        shared_address(x) + (min(lane % 8, in.rows - 1) * input_pitch(weight.units) + lane / 8 * 8) * 2;
    const int row = lane % 4 * 2, pairs = pairs_of(in.rows), pair = lane / 4 * pairs + lane % 4;
    int slot = 0, turn = 0;
    uint32_t parity = 0;
    for (int32_t tile = blockIdx.x; tile < weight.num_tiles; tile += gridDim.x, ++turn) {
        const int first = tile * kTileRows + 2 * Ring::row_pair(lane / 4);
        const bool joins = slice == turn % kSlices;
        Addend<T> addends[2];
        if (joins && row < in.rows) addends[0].read(out, weight.n, row, first);
        if (joins && row + 1 < in.rows) addends[1].read(out, weight.n, row + 1, first);
        TileSum<1> sum[1];
#pragma unroll 1
        for (int32_t unit = first_unit; unit < end_unit; ++unit) {
            ring.wait(slot, parity, depth - 1);
            const auto x_address = [&](int, int chunk) { return x_row + (unit * kUnit + chunk * 8) * 2; };
            if (weight.groups_per_unit == 1)
                add_unit<false>(sum, ring, slot, 0, weight, unit, unit == first_unit, x_address);
            else
                add_unit<true>(sum, ring, slot, 0, weight, unit, unit == first_unit, x_address);
            __syncwarp();
            request_next(slot);
            if (++slot == depth) {
                slot = 0;
                parity ^= 1;
            }
        }
        // Two buffers: past the barrier of a tile, the sums of the tile before it have been read.
        float4* buffer = partial + turn % 2 * buffer_elements(in.rows) + pair;
        if (row < in.rows)
            buffer[slice * 8 * pairs] =
                make_float4(sum[0].template value<kQuantized>(0, 0), sum[0].template value<kQuantized>(0, 1),
                            sum[0].template value<kQuantized>(0, 2), sum[0].template value<kQuantized>(0, 3));
        __syncthreads();
        if (joins && row < in.rows) {
            float total[4] = {};
            join_slices(buffer, pairs, weight.chunks, total);
            write_outputs<T>(out, weight.bias, weight.n, row, first, {total[0], total[2]}, addends[0]);
            if (row + 1 < in.rows)
                write_outputs<T>(out, weight.bias, weight.n, row + 1, first, {total[1], total[3]}, addends[1]);
        }
    }
}

template <typename T, bool kQuantized>
int32_t shared_bytes(const DecodeWeight& weight, int32_t rows, bool normed, int depth) {
    return kSlices * depth * WeightRing<T, kQuantized>::slot_bytes(weight) +
           2 * buffer_elements(rows) * static_cast<int32_t>(sizeof(float4)) + input_bytes(weight.units, rows, normed);
}

// Slots of the rings: as many as let two blocks fit an SM; where not even two slots do, as many as fit one block; 0
// where that is not possible either.
template <typename T, bool kQuantized>
int ring_depth(const DecodeWeight& weight, int32_t rows, bool normed) {
    constexpr int kReserved = 1024;  // shared memory that the system takes a block
    const int one_block = device_traits().max_shared_bytes, two_blocks = (one_block + kReserved) / 2 - kReserved;
    for (const int limit : {two_blocks, one_block}) {
        for (int depth = kMaxDepth; depth >= 2; --depth)
            if (shared_bytes<T, kQuantized>(weight, rows, normed, depth) <= limit) return depth;
    }
    return 0;
}

template <typename T, bool kQuantized>
void launch(cudaStream_t cuda_stream, const DecodeWeight& weight, const CUtensorMap& map, const DecodeInput& input,
            const LinearOutput& out) {
    const auto kernel = few_rows_kernel<T, kQuantized>;
    const int depth = ring_depth<T, kQuantized>(weight, input.rows, input.norm != nullptr);
    const int32_t bytes = shared_bytes<T, kQuantized>(weight, input.rows, input.norm != nullptr, depth);
    TL_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    const unsigned blocks = std::min(weight.num_tiles, device_traits().num_sms);
    launch_overlapped("launch of few_rows_kernel", kernel, {blocks, kThreads, static_cast<size_t>(bytes)}, cuda_stream,
                      weight, map, input, out, depth);
}

}  // namespace

bool fits_few(const DecodeWeight& weight, bool quantized, int64_t rows, bool normed) {
    if (rows > kFewRows || (normed && weight.k > NormedInput<__half, kThreads>::kMaxNormed)) return false;
    const int32_t few = static_cast<int32_t>(rows);
    return (quantized ? ring_depth<__half, true>(weight, few, normed)
                      : ring_depth<__half, false>(weight, few, normed)) > 0;
}

void linear_decode_few(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, const CUtensorMap& map,
                       bool quantized, const DecodeInput& input, const LinearOutput& out) {
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        if (quantized)
            launch<T, true>(cuda_stream, weight, map, input, out);
        else
            launch<T, false>(cuda_stream, weight, map, input, out);
    });
}

}  // namespace tinyllm
