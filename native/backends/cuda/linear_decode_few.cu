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

// Elements 8 vector .. 8 vector + 7 of a row, zero from k on. Past L1: see linear_output.cuh.
template <typename T>
__device__ uint4 load_vector(const T* row, int32_t vector, int32_t k, bool aligned) {
    if (aligned && vector * 8 + 8 <= k) return __ldcg(reinterpret_cast<const uint4*>(row) + vector);
    union {
        uint4 whole;
        T element[8];
    } result = {};
    for (int i = 0; i < 8; ++i)
        if (vector * 8 + i < k) result.element[i] = __ldcg(row + vector * 8 + i);
    return result.whole;
}

template <typename T>
__device__ float square_sum(uint4 whole) {
    const T* element = reinterpret_cast<const T*>(&whole);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(widen(element[i]), widen(element[i]), sum);
    return sum;
}

// Brings x, normalised where wanted, to shared memory: T [rows, k_padded + kPad], zero from k on.
template <typename T>
__device__ void load_input(const FewRowsInput& in, int32_t k, int32_t k_padded, unsigned char* shared, float* sums) {
    const int32_t vectors = k_padded / 8, pitch = (k_padded + kPad) / 8;
    uint4* target = reinterpret_cast<uint4*>(shared);
    const int warp = threadIdx.x / kWarpSize;
    const int chunks = (vectors + kWarpSize - 1) / kWarpSize;
    for (int32_t r = 0; r < in.rows; ++r) {
        const T* row = static_cast<const T*>(in.x) + (in.row_index == nullptr ? r : in.row_index[r]) * in.row_stride;
        for (int32_t chunk = warp; chunk < chunks; chunk += kThreads / kWarpSize) {
            const int32_t vector = chunk * kWarpSize + threadIdx.x % kWarpSize;
            uint4 value = {};
            if (vector < vectors) {
                value = load_vector(row, vector, k, in.aligned);
                target[r * pitch + vector] = value;
            }
            if (in.norm != nullptr) {
                const float sum = warp_reduce(square_sum<T>(value), Sum{});
                if (threadIdx.x % kWarpSize == 0) sums[r * chunks + chunk] = sum;
            }
        }
    }
    __syncthreads();
    if (in.norm == nullptr) return;
    for (int32_t r = 0; r < in.rows; ++r) {
        float sum = 0;
        for (int chunk = 0; chunk < chunks; ++chunk) sum += sums[r * chunks + chunk];
        const float factor = rsqrtf(sum / static_cast<float>(k) + in.norm_eps);
        for (int32_t vector = threadIdx.x; vector < vectors; vector += kThreads) {
            union {
                uint4 whole;
                T element[8];
            } value;
            value.whole = target[r * pitch + vector];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const int32_t at = vector * 8 + i;
                const float weight = at < k ? in.norm[at] : 0.0f;
                value.element[i] = round_to<T>(widen(value.element[i]) * factor * weight);
            }
            target[r * pitch + vector] = value.whole;
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
    using Ring = WeightRing<T, kQuantized>;
    constexpr int kDepth = kStages<kQuantized>;
    extern __shared__ __align__(128) unsigned char shared[];
    const int lane = threadIdx.x % kWarpSize, team = threadIdx.x / kTeamThreads;
    const int slice = threadIdx.x / kWarpSize % kSlices;

    // Ring, then partial sums, then x.
    unsigned char* ring = shared + (team * kSlices + slice) * (kDepth * Ring::kSlotBytes);
    const uint32_t ring_address = shared_address(ring);
    TRACE(0);
    float4* partial = reinterpret_cast<float4*>(shared + kTeams * kSlices * kDepth * Ring::kSlotBytes) +
                      team * 2 * kTeamThreads;
    unsigned char* x = shared + kTeams * kSlices * (kDepth * Ring::kSlotBytes + 2 * kWarpSize * sizeof(float4));

    const int32_t first_unit = slice_begin(weight.units, slice), end_unit = slice_begin(weight.units, slice + 1);
    const int32_t first_tile = blockIdx.x + team * gridDim.x, tile_step = kTeams * gridDim.x;

    int32_t next_tile = first_unit < end_unit ? first_tile : weight.num_tiles, next_unit = first_unit;
    bool released = false;
    const auto request_next = [&](int slot) {
        if (next_tile < weight.num_tiles) {
            Ring::request(weight, next_tile, next_unit, ring_address + slot * Ring::kSlotBytes, lane);
            if (++next_unit == end_unit) {
                next_unit = first_unit;
                next_tile += tile_step;
            }
        } else if (!released) {
            release_successor();
            TRACE(7);
            released = true;
        }
        commit_copies();
    };
#ifdef TL_EARLY
    release_successor();
    released = true;
#endif
#pragma unroll
    for (int slot = 0; slot < kDepth; ++slot) request_next(slot);
    if (in.norm != nullptr)
        for (int32_t i = threadIdx.x * 32; i < weight.k; i += kThreads * 32)
            asm volatile("prefetch.global.L2 [%0];" ::"l"(in.norm + i));

    TRACE(1);
    wait_for_predecessor();
    TRACE(2);
    load_input<T>(in, weight.k, weight.units * kUnit, x, reinterpret_cast<float*>(partial));

    // Row lane % 8 and 16-byte chunk lane / 8 of the fragments that load_matrices() brings.
    const uint32_t x_address = shared_address(x) + min(lane % 8, in.rows - 1) * ((weight.units * kUnit + kPad) * 2) + lane / 8 * 16;
    int slot = 0;
    int turn = 0;
    TRACE(3);
    for (int32_t tile = first_tile; tile < weight.num_tiles; tile += tile_step, ++turn) {
        TileSum<1> sum;
        for (int32_t unit = first_unit; unit < end_unit; ++unit) {
            wait_for_copies<kDepth - 1>();
            __syncwarp();
#ifdef TL_TRACE
            if (turn == 0 && unit == first_unit) TRACE(4);
#endif
            uint32_t words[2][Ring::kWords];
            const unsigned char* at = ring + slot * Ring::kSlotBytes;
            Ring::read(at, lane, words);
            const bool new_group =
                kQuantized && (unit == first_unit || ((2 * unit) & ((1 << weight.group_shift) - 1)) == 0);
            if (new_group) sum.change_scale(Ring::scales(at, lane, 0));
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (kQuantized && half == 1 && weight.group_shift == 0) sum.change_scale(Ring::scales(at, lane, 1));
                uint32_t b[4];
                load_matrices(b, x_address + unit * (kUnit * 2) + half * 64);
#pragma unroll
                for (int step = 0; step < 2; ++step) {
                    uint32_t a[4];
                    Ring::fragment(words, 2 * half + step, a);
                    mma_m16n8k16<T>(sum.c[0], a, b[2 * step], b[2 * step + 1]);
                }
            }
            __syncwarp();
            request_next(slot);
            slot = slot + 1 == kDepth ? 0 : slot + 1;
        }
        // Two buffers: the team is past the barrier of the last tile only when its sums have been read.
        float4* sums = partial + turn % 2 * kTeamThreads;
        sums[slice * kWarpSize + lane] =
            make_float4(sum.value<kQuantized>(0, 0), sum.value<kQuantized>(0, 1), sum.value<kQuantized>(0, 2),
                        sum.value<kQuantized>(0, 3));
        team_barrier(team);
        if (slice != turn % kSlices) continue;
        float total[4] = {};
        const int slices_a_chunk = kSlices / weight.chunks;
        for (int chunk = 0; chunk < weight.chunks; ++chunk) {
            float part[4] = {};
            for (int s = 0; s < slices_a_chunk; ++s) {
                const float4 value = sums[(chunk * slices_a_chunk + s) * kWarpSize + lane];
                part[0] += value.x;
                part[1] += value.y;
                part[2] += value.z;
                part[3] += value.w;
            }
            for (int i = 0; i < 4; ++i) total[i] += part[i];
        }
        const int row = lane % 4 * 2, first = tile * kTileRows + lane / 4 * 2;
        if (row < in.rows) write_output_pair<T>(out, weight.bias, weight.n, row, first, total[0], total[2]);
        if (row + 1 < in.rows) write_output_pair<T>(out, weight.bias, weight.n, row + 1, first, total[1], total[3]);
    }
    TRACE(6);
    if (!released) release_successor();
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
    using Ring = WeightRing<T, kQuantized>;
    const size_t bytes = kTeams * kSlices * (kStages<kQuantized> * Ring::kSlotBytes + 2 * kWarpSize * sizeof(float4)) +
                         size_t(in.rows) * (w.units * kUnit + kPad) * 2;
    static size_t set = 0;
    if (bytes > set) {
        TL_CUDA_CHECK(cudaFuncSetAttribute(few_rows_kernel<T, kQuantized>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
        set = bytes;
    }
    launch_overlapped("few", few_rows_kernel<T, kQuantized>, {dim3(std::min<unsigned>(w.num_tiles, device_traits().num_sms * 512 / kThreads)), kThreads, bytes}, s, w, in, out);
}
void few_test(cudaStream_t s, DType dtype, DecodeWeight w, bool quantized, const void* x, int64_t stride, int rows, const NormWeight* norm, const LinearOutput& out) {
#ifdef TL_TRACE
    static int launch = 0;
    w.trace = launch++ % 65536;
#endif
    FewRowsInput in{x, stride, nullptr, rows, (reinterpret_cast<uintptr_t>(x) % 16 == 0 && stride % 8 == 0), norm ? norm->weight : nullptr, norm ? norm->eps : 0};
    with_activation(dtype, [&](auto type) {
        using T = decltype(type);
        if (quantized) launch_few<T, true>(s, w, in, out); else launch_few<T, false>(s, w, in, out);
    });
}

}  // namespace tinyllm
