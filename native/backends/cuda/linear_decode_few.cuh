// What the warps of a block do for a decode linear with few rows (linear_decode_few.cu, decode_layers.cu): the first
// kSlices warps, the readers, hold x in shared memory and sum one slice each of a tile of 16 weight rows; one warp, the
// joiner, adds the slices and writes y; one, the producer, asks for the weights (linear_decode_feed.cuh).
#pragma once

#include "backends/cuda/linear_decode_feed.cuh"
#include "backends/cuda/linear_decode_input.cuh"
#include "backends/cuda/linear_decode_sum.cuh"
#include "backends/cuda/linear_output.cuh"

namespace tinyllm {

constexpr int kReaders = kSlices * kWarpSize;              // threads
constexpr int kJoiner = kSlices, kProducer = kSlices + 1;  // warps

// Partial sums of a tile: float4 [kSlices, 8, pairs_of(rows)], two outputs of two rows each.
constexpr int kBuffers = 2;
__host__ __device__ constexpr int32_t pairs_of(int32_t rows) { return (rows + 1) / 2; }
__host__ __device__ constexpr int32_t buffer_elements(int32_t rows) { return kSlices * 8 * pairs_of(rows); }

// The sums of the slices on their way from the readers to the joiner, with the barriers of the buffers. A float4 is
// written by one lane and read by one lane, and these arrive each for itself: the tools that look for races follow
// that.
struct PartialSums {
    float4* data;
    uint32_t barriers;
    int32_t elements;  // of a buffer

    static __host__ __device__ int32_t bytes(int32_t rows) {
        return kBuffers * (buffer_elements(rows) * static_cast<int32_t>(sizeof(float4)) + 16);
    }
    __device__ PartialSums(unsigned char* shared, int32_t rows)
        : data(reinterpret_cast<float4*>(shared)),
          barriers(shared_address(data + kBuffers * buffer_elements(rows))),
          elements(buffer_elements(rows)) {}
    __device__ void init() const {
        for (int buffer = 0; buffer < kBuffers; ++buffer) {
            init_barrier(full(buffer), elements);
            init_barrier(free(buffer), elements / kSlices);
        }
    }
    __device__ uint32_t full(int buffer) const { return barriers + buffer * 16; }
    __device__ uint32_t free(int buffer) const { return barriers + buffer * 16 + 8; }
};

// Adds the slices' sums, 8 pairs apart from `sums` on, in the order of linear_decode_split.h.
__device__ inline void join_slices(const float4* sums, int pairs, int chunks, float (&total)[4]) {
    const int last_of_chunk = kSlices / chunks - 1;  // all bits below a power of two
    float chunk[4] = {};
    float4 sum[kSlices / 2];
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
        if (slice % (kSlices / 2) == 0) {
#pragma unroll
            for (int i = 0; i < kSlices / 2; ++i) sum[i] = sums[(slice + i) * 8 * pairs];
        }
        chunk[0] += sum[slice % (kSlices / 2)].x;
        chunk[1] += sum[slice % (kSlices / 2)].y;
        chunk[2] += sum[slice % (kSlices / 2)].z;
        chunk[3] += sum[slice % (kSlices / 2)].w;
        if ((slice & last_of_chunk) != last_of_chunk) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            total[i] += chunk[i];
            chunk[i] = 0;
        }
    }
}

// Fetches x with the other readers, normalised where wanted. wait_for_x(): returns when x may be read.
template <typename T, typename Wait>
__device__ void fetch_input(const DecodeInput& in, const DecodeWeight& weight, unsigned char* x, Wait&& wait_for_x) {
    if (in.norm != nullptr) {
        const NormedInput<T, kReaders> normed(in, weight.k);
        wait_for_x();
        normed.load(in, weight.k, weight.units, x);
    } else {
        wait_for_x();
        load_input<T, kReaders>(in, weight.k, weight.units, x);
    }
}

// A warp of the readers: sums its slice of tiles first_tile, first_tile + gridDim.x, .. `turn` counts the tiles of the
// block, from weight to weight.
template <typename T, bool kQuantized>
__device__ void sum_tiles(const DecodeWeight& weight, const DecodeInput& in, FeedReader<T, kQuantized>& reader,
                          const PartialSums& partial, const unsigned char* x, int slice, int32_t first_tile,
                          int& turn) {
    // Lanes without a row of their own read the last one; their columns of the result are dropped.
    const int lane = threadIdx.x % kWarpSize;
    const uint32_t x_row =
        shared_address(x) + (min(lane % 8, in.rows - 1) * input_pitch(weight.units) + lane / 8 * 8 + slice * kUnit) * 2;
    const int pairs = pairs_of(in.rows);
    float4* const target = partial.data + (slice * 8 + lane / 4) * pairs + lane % 4;
#pragma unroll 1
    for (int32_t tile = first_tile; tile < weight.num_tiles; tile += gridDim.x, ++turn) {
        SliceSum<1> sum[1];
#pragma unroll 1
        for (int32_t first = 0; first < weight.units; first += kSlices) {
            reader.wait();
            const int32_t unit = first + slice;
            if (unit < weight.units) {
                const unsigned char* units[1] = {reader.unit()};
                const auto x_address = [&](int, int chunk) { return x_row + (first * kUnit + chunk * 8) * 2; };
                const auto scales = [&](int, int group) { return reader.scales(group); };
                if (weight.groups_per_unit == 1)
                    add_unit<false>(sum, reader.fragments(), units, 1, 1, scales, x_address);
                else
                    add_unit<true>(sum, reader.fragments(), units, weight.groups_per_unit,
                                   weight.groups - unit * weight.groups_per_unit, scales, x_address);
            }
            reader.release();
        }
        const int buffer = turn % kBuffers;
        wait_for_phase(partial.free(buffer), turn / kBuffers % 2 ^ 1);
        if (lane % 4 < pairs) {
            target[buffer * partial.elements] =
                make_float4(sum[0].template value<kQuantized>(0, 0), sum[0].template value<kQuantized>(0, 1),
                            sum[0].template value<kQuantized>(0, 2), sum[0].template value<kQuantized>(0, 3));
            arrive(partial.full(buffer));
        }
        __syncwarp();
    }
}

// The joiner: adds the slices of these tiles and writes y. A lane has two outputs of two rows.
template <typename T>
__device__ void join_tiles(const DecodeWeight& weight, const float* bias, int32_t rows, const PartialSums& partial,
                           const LinearOutput& out, int32_t first_tile, int& turn) {
    const int lane = threadIdx.x % kWarpSize, pairs = pairs_of(rows), row = lane % pairs * 2;
    const int output = 2 * WeightFragments<T, true>::row_pair(lane / pairs);
    const bool has_second = row + 1 < rows;
    if (lane >= 8 * pairs) return;
    // A tile ahead: while weights stream, a load takes as long as all that was asked for before it.
    Addend<T> next[2];
    const auto read_addends = [&](int32_t tile) {
        if (tile >= weight.num_tiles) return;
        const int32_t first = tile * kTileRows + output;
        next[0].read(out, weight.n, row, first);
        if (has_second) next[1].read(out, weight.n, row + 1, first);
    };
    read_addends(first_tile);
#pragma unroll 1
    for (int32_t tile = first_tile; tile < weight.num_tiles; tile += gridDim.x, ++turn) {
        const int first = tile * kTileRows + output, buffer = turn % kBuffers;
        const Addend<T> addends[2] = {next[0], next[1]};
        read_addends(tile + gridDim.x);
        wait_for_phase(partial.full(buffer), turn / kBuffers % 2);
        float total[4] = {};
        join_slices(partial.data + buffer * partial.elements + lane, pairs, weight.chunks, total);
        arrive(partial.free(buffer));
        write_outputs<T>(out, bias, weight.n, row, first, {total[0], total[2]}, addends[0]);
        if (has_second) write_outputs<T>(out, bias, weight.n, row + 1, first, {total[1], total[3]}, addends[1]);
    }
}

}  // namespace tinyllm
