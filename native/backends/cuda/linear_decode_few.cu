// Decode linear for few rows: y = RMSNorm(x) W^T + b (the norm is optional).
//
//   x: T [rows <= 8, k]; weight: packed tiles of 16 rows x 64 inputs; out: LinearOutput
// Bound by reading the weights once. x lies in shared memory as a whole. A block has two teams of eight warps; a team
// takes a tile of 16 weight rows at a time, each of its warps one slice of k, and joins the eight partial sums in shared
// memory. No block needs another, and every SM gets the same number of tiles to within one.
#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/device/launch.cuh"
#include "backends/cuda/device/reduce.cuh"
#include "backends/cuda/linear_decode.h"
#include "backends/cuda/linear_decode_tile.cuh"
#include "backends/cuda/linear_output.cuh"

namespace tinyllm {

namespace {

#ifndef TL_TEAMS
#define TL_TEAMS 2
#endif
#ifndef TL_STAGES
#define TL_STAGES 4
#endif
constexpr int kTeams = TL_TEAMS;
constexpr int kTeamThreads = kSlices * kWarpSize;
constexpr int kThreads = kTeams * kTeamThreads;
constexpr int kPad = 8;  // elements between rows of x, so that the eight rows of a fragment lie in different banks

// Shared bytes of the partial sums, which first hold the norm's `norm_length` weights.
__host__ __device__ constexpr int32_t partial_bytes(int32_t norm_length) {
    const int32_t sums = kTeams * 2 * kTeamThreads * 16, norm = (norm_length * 4 + 127) / 128 * 128;
    return sums > norm ? sums : norm;
}

// Units that a warp has in flight.
template <bool kQuantized>
constexpr int kStages = kQuantized ? TL_STAGES : TL_STAGES / 2;

struct FewRowsInput {
    const void* x;
    int64_t row_stride;  // elements
    const int32_t* row_index;  // x row of each row; null: 0, 1, ..
    int32_t rows;
    bool aligned;  // every row starts at a multiple of 16 bytes
    const float* norm;   // null: none
    float norm_eps;
};

// Eight elements.
template <typename T>
union Vector8 {
    uint4 whole;
    T element[8];
};

// Brings x, normalised where wanted, to shared memory: T [rows, k_padded + kPad], zero from k on.
template <typename T>
__device__ void load_input(const FewRowsInput& in, int32_t k, int32_t k_padded, unsigned char* shared, const float* norm, float* sums) {
    constexpr int kHeld = 3;  // loads in flight
    const int32_t vectors = k_padded / 8, pitch = (k_padded + kPad) / 8;
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    uint4* target = reinterpret_cast<uint4*>(shared);
    const int32_t blocks = (vectors + kWarpSize - 1) / kWarpSize;
    for (int32_t r = 0; r < in.rows; ++r) {
        const T* row = static_cast<const T*>(in.x) + (in.row_index == nullptr ? r : in.row_index[r]) * in.row_stride;
        if (!in.aligned) {
            T* elements = reinterpret_cast<T*>(shared) + r * (k_padded + kPad);
            for (int32_t i = threadIdx.x; i < k_padded; i += kThreads) elements[i] = i < k ? __ldcg(row + i) : T(0.0f);
            continue;
        }
#pragma unroll 1
        for (int32_t first = warp; first < blocks; first += kHeld * (kThreads / kWarpSize)) {
            Vector8<T> held[kHeld];
#pragma unroll
            for (int i = 0; i < kHeld; ++i) {
                const int32_t vector = (first + i * (kThreads / kWarpSize)) * kWarpSize + lane;
                held[i].whole = vector * 8 < k ? __ldcg(reinterpret_cast<const uint4*>(row) + vector) : uint4{};
            }
#pragma unroll
            for (int i = 0; i < kHeld; ++i) {
                const int32_t block = first + i * (kThreads / kWarpSize), vector = block * kWarpSize + lane;
                if (vector < vectors) target[r * pitch + vector] = held[i].whole;
                if (norm != nullptr && block < blocks) {
                    float sum = 0;
#pragma unroll
                    for (int e = 0; e < 8; ++e) sum = fmaf(widen(held[i].element[e]), widen(held[i].element[e]), sum);
                    sum = warp_reduce(sum, Sum{});
                    if (lane == 0) sums[r * blocks + block] = sum;
                }
            }
        }
    }
    if (norm != nullptr) {
        __syncthreads();
        for (int32_t r = 0; r < in.rows; ++r) {
            float sum = sums[r * blocks];
            for (int block = 1; block < blocks; ++block) sum += sums[r * blocks + block];
            const float factor = rsqrtf(sum / static_cast<float>(k) + in.norm_eps);
            for (int32_t vector = threadIdx.x; vector * 8 < k; vector += kThreads) {
                Vector8<T> value;
                value.whole = target[r * pitch + vector];
                const float4 low = reinterpret_cast<const float4*>(norm)[2 * vector];
                const float4 high = reinterpret_cast<const float4*>(norm)[2 * vector + 1];
                const float weight[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
                for (int e = 0; e < 8; ++e)
                    value.element[e] = round_to<T>(widen(value.element[e]) * factor * weight[e]);
                target[r * pitch + vector] = value.whole;
            }
        }
    }
    __syncthreads();
}

__device__ void team_barrier(int team) { asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(kTeamThreads) : "memory"); }

#ifdef TL_TRACE
__device__ long long trace_time() { long long t; asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t)); return t; }
__device__ long long tl_trace[65536][8];
#define TRACE(i) do { if (threadIdx.x == 0 && blockIdx.x == 0) tl_trace[weight.trace][i] = trace_time(); } while (0)
#else
#define TRACE(i)
#endif
// PRECOND: block kThreads; dynamic shared memory as few_rows_shared_bytes() says.
template <typename T, bool kQuantized>
__global__ void __launch_bounds__(kThreads, 2 * 512 / kThreads)
    few_rows_kernel(const DecodeWeight weight, const FewRowsInput in, const LinearOutput out) {
    using Stream = WeightStream<T, kQuantized>;
    constexpr int kDepth = kStages<kQuantized>;
    extern __shared__ __align__(128) unsigned char shared[];
    TRACE(0);
#ifndef TL_LATE
    release_successor();
#endif
    const int lane = threadIdx.x % kWarpSize, team = threadIdx.x / kTeamThreads;
    const int slice = threadIdx.x / kWarpSize % kSlices;

    // Ring, then partial sums (at first the weights of the norm), then x.
    const int32_t slot_bytes = Stream::slot_bytes(weight.group_shift), ring_bytes = kDepth * slot_bytes;
    unsigned char* ring = shared + (team * kSlices + slice) * ring_bytes + lane * 16;
    const uint32_t ring_address = shared_address(ring), scale_offset = Stream::kDataBytes - lane * 12;
    float4* all_partials = reinterpret_cast<float4*>(shared + kTeams * kSlices * ring_bytes);
    float4* partial = all_partials + team * 2 * kTeamThreads;
    float* norm = in.norm == nullptr ? nullptr : reinterpret_cast<float*>(all_partials);
    unsigned char* x = reinterpret_cast<unsigned char*>(all_partials) + partial_bytes(in.norm == nullptr ? 0 : weight.k);

    const int32_t first_tile = blockIdx.x + team * gridDim.x, tile_step = kTeams * gridDim.x;
    WeightStream<T, kQuantized> stream(weight, slice, first_tile, tile_step, lane);
    if (norm != nullptr)
        for (int32_t i = threadIdx.x * 4; i < weight.k; i += kThreads * 4)
            copy_async_16(shared_address(norm + i), in.norm + i);
    commit_copies();
#pragma unroll 1
    for (int32_t slot = 0; slot < ring_bytes; slot += slot_bytes) {
        stream.request(ring_address + slot, ring_address + slot + scale_offset);
        commit_copies();
    }
    TRACE(1);
    wait_for_predecessor();
    TRACE(2);
    wait_for_copies<kDepth>();  // the norm
    const int32_t x_pitch = weight.units * kUnit + kPad;
    load_input<T>(in, weight.k, weight.units * kUnit, x, norm, reinterpret_cast<float*>(x) + in.rows * x_pitch / 2);

    // Row lane % 8 and 16-byte chunk lane / 8 of the fragments that load_matrices() brings.
    const int32_t first_unit = slice_begin(weight.units, slice), end_unit = slice_begin(weight.units, slice + 1);
    const uint32_t x_address = shared_address(x) + (min(lane % 8, in.rows - 1) * x_pitch + lane / 8 * 8 + first_unit * kUnit) * 2;
    TRACE(3);
    int32_t slot = 0;
    int turn = 0;
    for (int32_t tile = first_tile; tile < weight.num_tiles; tile += tile_step, ++turn) {
        TileSum<1> sum;
        uint32_t x_at = x_address;
#pragma unroll 1
        for (int32_t unit = first_unit; unit < end_unit; ++unit, x_at += kUnit * 2) {
            wait_for_copies<kDepth - 1>();
#ifdef TL_TRACE
            if (turn == 0 && unit == first_unit) TRACE(4);
#endif
            uint32_t words[2][Stream::kWords];
            Stream::read(ring + slot, words);
            const __half2* scales = reinterpret_cast<const __half2*>(ring + slot + scale_offset);
            if (kQuantized && stream.starts_group(unit)) sum.change_scale(scales[0]);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (kQuantized && half == 1 && weight.group_shift == 0) sum.change_scale(scales[kWarpSize]);
                uint32_t b[4];
                load_matrices(b, x_at + half * 64);
#pragma unroll
                for (int step = 0; step < 2; ++step) {
                    uint32_t a[4];
                    Stream::fragment(words, 2 * half + step, a);
                    mma_m16n8k16<T>(sum.c[0], a, b[2 * step], b[2 * step + 1]);
                }
            }
            stream.request(ring_address + slot, ring_address + slot + scale_offset);
            commit_copies();
#ifdef TL_TRACE
            if (turn == 0 && unit == first_unit) TRACE(5);
#endif
            slot += slot_bytes;
            if (slot == ring_bytes) slot = 0;
        }
#ifdef TL_LATE
        if (stream.done()) release_successor();
#endif
        // Two buffers: the team is past the barrier of the last tile only when its sums have been read.
        float4* sums = partial + turn % 2 * kTeamThreads;
        sums[slice * kWarpSize + lane] =
            make_float4(sum.value<kQuantized>(0, 0), sum.value<kQuantized>(0, 1), sum.value<kQuantized>(0, 2),
                        sum.value<kQuantized>(0, 3));
        const int row = lane % 4 * 2, first = tile * kTileRows + lane / 4 * 2;
        const bool joins = slice == turn % kSlices;
        float2 addend[2] = {};
        if (joins) {
            if (row < in.rows) addend[0] = read_addend<T>(out, weight.n, row, first);
            if (row + 1 < in.rows) addend[1] = read_addend<T>(out, weight.n, row + 1, first);
        }
        team_barrier(team);
        if (!joins) continue;
        float total[4] = {};
        const int slices_a_chunk = kSlices / weight.chunks;
        int next_slice = 0;
#pragma unroll 1
        for (int chunk = 0; chunk < weight.chunks; ++chunk) {
            float part[4] = {};
#pragma unroll 1
            for (int s = 0; s < slices_a_chunk; ++s, ++next_slice) {
                const float4 value = sums[next_slice * kWarpSize + lane];
                part[0] += value.x;
                part[1] += value.y;
                part[2] += value.z;
                part[3] += value.w;
            }
            for (int i = 0; i < 4; ++i) total[i] += part[i];
        }
        if (row < in.rows) write_outputs<T>(out, weight.bias, weight.n, row, first, {total[0], total[2]}, addend[0]);
        if (row + 1 < in.rows) write_outputs<T>(out, weight.bias, weight.n, row + 1, first, {total[1], total[3]}, addend[1]);
    }
    TRACE(6);
    if (threadIdx.x == 0 && blockIdx.x == 0) TRACE(7);
}
#ifdef TL_TRACE
}
void dump_trace(int count) {
    static long long t[65536][8];
    cudaMemcpyFromSymbol(t, tl_trace, sizeof t);
    const char* names[] = {"start", "requested", "waited", "loaded", "first", "-", "end", "trigger"};
    for (int i = 0; i < 8; ++i) printf("%10s", names[i]);
    printf("\n");
    for (int l = 0; l < count; ++l) { for (int i = 0; i < 8; ++i) printf("%10lld", t[l][i] ? t[l][i] - t[0][0] : 0); printf("\n"); }
}
namespace {
#endif

}  // namespace

template <typename T, bool kQuantized>
void launch_few(cudaStream_t s, const DecodeWeight& w, const FewRowsInput& in, const LinearOutput& out) {
    const size_t bytes = kTeams * kSlices * kStages<kQuantized> * WeightStream<T, kQuantized>::slot_bytes(w.group_shift) + partial_bytes(in.norm ? w.k : 0) +
                         size_t(in.rows) * (w.units * kUnit + kPad) * 2 + (in.norm ? in.rows * ((w.units * 8 + 31) / 32) * 4 : 0);
    static size_t set = 0;
    if (bytes > set) {
        TL_CUDA_CHECK(cudaFuncSetAttribute(few_rows_kernel<T, kQuantized>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
#ifndef TL_NOCARVE
        TL_CUDA_CHECK(cudaFuncSetAttribute(few_rows_kernel<T, kQuantized>, cudaFuncAttributePreferredSharedMemoryCarveout, 100));
#endif
        set = bytes;
    }
    launch_overlapped("few", few_rows_kernel<T, kQuantized>, {dim3(std::min<unsigned>(w.num_tiles, device_traits().num_sms * 512 / kThreads)), kThreads, bytes}, s, w, in, out);
}
void few_test(cudaStream_t s, DType dtype, DecodeWeight w, bool quantized, const void* x, int64_t stride, int rows, const NormWeight* norm, const LinearOutput& out) {
#ifdef TL_TRACE
    static int launch = 0;
    w.trace = launch++ % 65536;
#endif
    FewRowsInput in{x, stride, nullptr, rows, (reinterpret_cast<uintptr_t>(x) % 16 == 0 && stride % 8 == 0 && w.k % 8 == 0), norm ? norm->weight : nullptr, norm ? norm->eps : 0};
    with_activation(dtype, [&](auto type) {
        using T = decltype(type);
        if (quantized) launch_few<T, true>(s, w, in, out); else launch_few<T, false>(s, w, in, out);
    });
}

}  // namespace tinyllm
