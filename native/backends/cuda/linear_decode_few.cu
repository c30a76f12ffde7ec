// Decode linear for few rows: y = RMSNorm(x) W^T + b (the norm is optional).
//
//   x: T [rows <= 8, k]; weight: packed, in tiles of 16 rows; out: LinearOutput
// Bound by reading the weights once. x lies in shared memory as a whole. A block takes a tile of 16 weight rows at a
// time, each of its first kSlices warps the units of one slice. One more warp joins the slices' sums and writes y, and
// one asks for the weights: neither keeps the others waiting, and every SM gets the same number of tiles to within one.
//
// The next kernel's blocks start as soon as there is room on the SM and fill their stages before their input is there.
// So two blocks must fit an SM: memory is then busy while one kernel ends and the next one fetches its input.
#include <algorithm>

#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/launch.cuh"
#include "backends/cuda/linear_decode_few.cuh"
#include "backends/cuda/linear_decode_kernels.h"
#include "backends/cuda/linear_decode_maps.h"

namespace tinyllm {

namespace {

// PRECOND: block of the readers, the joiner and, with the copy engine, the producer; dynamic shared memory of
// shared_bytes(.., stages).
template <typename T, bool kQuantized>
__global__ void __launch_bounds__(allocated_threads((kProducer + 1) * kWarpSize), kQuantized ? 2 : 1)
    few_rows_kernel(const __grid_constant__ DecodeWeight weight, const __grid_constant__ CUtensorMap weight_map,
                    const __grid_constant__ CUtensorMap scale_map, const __grid_constant__ DecodeInput in,
                    const __grid_constant__ LinearOutput out, const int stages) {
    extern __shared__ __align__(kUnitAlign) unsigned char shared[];  // feed, partial sums, x
    release_successor();
    using Layout = FeedLayout<T, kQuantized>;
    const WeightFeed<T, kQuantized> feed(shared, stages, Layout::scale_bytes(weight), stages);
    const PartialSums partial(shared + Layout::bytes(stages, Layout::scale_bytes(weight)), in.rows);
    unsigned char* const x = reinterpret_cast<unsigned char*>(partial.data) + PartialSums::bytes(in.rows);
    if (threadIdx.x == 0) {
        partial.init();
        feed.init();
    }
    __syncthreads();
    const int warp = warp_index(), first_tile = blockIdx.x;
    int turn = 0;
    if (warp < kSlices) {
        FeedReader<T, kQuantized> reader(feed, warp);
        reader.start(weight, first_tile);
        fetch_input<T>(in, weight, x, [] { wait_for_predecessor(); });
        sum_tiles<T, kQuantized>(weight, in, reader, partial, x, warp, first_tile, turn);
    } else if (warp == kJoiner) {
        wait_for_predecessor();
        join_tiles<T>(weight, weight.bias, in.rows, partial, out, first_tile, turn);
    } else if constexpr (kHasCopyEngine) {
        FeedPlace place;
        if (elect_lane()) feed.produce(weight, weight_map, scale_map, first_tile, place);
    }
}

template <typename T, bool kQuantized>
int32_t shared_bytes(const DecodeWeight& weight, int32_t rows, bool normed, int stages) {
    using Layout = FeedLayout<T, kQuantized>;
    return Layout::bytes(stages, Layout::scale_bytes(weight)) + PartialSums::bytes(rows) +
           input_bytes(weight.units, rows, normed);
}

// Stages: as many as let two blocks fit an SM; where not even two stages do, as many as fit one block; 0 where that is
// not possible either.
template <typename T, bool kQuantized>
int stages_that_fit(const DecodeWeight& weight, int32_t rows, bool normed) {
    constexpr int kReserved = 1024;  // shared memory that the system takes a block
    const int one_block = device_traits().max_shared_bytes, two_blocks = (one_block + kReserved) / 2 - kReserved;
    for (const int limit : {two_blocks, one_block}) {
        for (int stages = kMaxStages; stages >= 2; --stages)
            if (shared_bytes<T, kQuantized>(weight, rows, normed, stages) <= limit) return stages;
    }
    return 0;
}

template <typename T, bool kQuantized>
void launch(cudaStream_t cuda_stream, const DecodeWeight& weight, const DecodeInput& input, const LinearOutput& out) {
    const auto kernel = few_rows_kernel<T, kQuantized>;
    const int stages = stages_that_fit<T, kQuantized>(weight, input.rows, input.norm != nullptr);
    const int32_t bytes = shared_bytes<T, kQuantized>(weight, input.rows, input.norm != nullptr, stages);
    allow_all_shared_memory(kernel);
    const bool copy_engine = device_traits().programmatic_launch;
    FeedMaps maps = {};
    if (copy_engine) maps = make_feed_maps<T, kQuantized>(weight);
    const unsigned warps = copy_engine ? kProducer + 1 : kJoiner + 1;
    const unsigned blocks = std::min(weight.num_tiles, device_traits().num_sms);
    launch_overlapped("launch of few_rows_kernel", kernel, {blocks, warps * kWarpSize, static_cast<size_t>(bytes)},
                      cuda_stream, weight, maps.weights, maps.scales, input, out, stages);
}

}  // namespace

bool fits_few(const DecodeWeight& weight, bool quantized, int64_t rows, bool normed) {
    if (rows > kFewRows || (normed && weight.k > NormedInput<__half, kReaders>::kMaxNormed)) return false;
    const int32_t few = static_cast<int32_t>(rows);
    return (quantized ? stages_that_fit<__half, true>(weight, few, normed)
                      : stages_that_fit<__half, false>(weight, few, normed)) > 0;
}

void linear_decode_few(cudaStream_t cuda_stream, DType activation, const DecodeWeight& weight, bool quantized,
                       const DecodeInput& input, const LinearOutput& out) {
    with_activation(activation, [&](auto type) {
        using T = decltype(type);
        if (quantized)
            launch<T, true>(cuda_stream, weight, input, out);
        else
            launch<T, false>(cuda_stream, weight, input, out);
    });
}

}  // namespace tinyllm
