#include <algorithm>
#include <vector>

#include "backends/cuda/device/mma.cuh"
#include "backends/cuda/device/wgmma.cuh"
#include "backends/cuda/runtime/cuda_buffer.h"
#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/cuda_event.h"
#include "backends/cuda/runtime/device_info.h"
#include "backends/cuda/runtime/device_scope.h"
#include "bench/ceilings/ceilings.h"

namespace tinyllm::bench {

using namespace cuda;

namespace {

constexpr int kRepeats = 7;

// Median seconds of `launch`, by events.
template <typename Launch>
double median_seconds(const CudaStream& cuda_stream, const Launch& launch) {
    CudaEvent start(EventTiming::On), end(EventTiming::On);
    std::vector<float> milliseconds;
    for (int i = 0; i <= kRepeats; ++i) {
        start.record(cuda_stream);
        launch();
        TL_CUDA_CHECK_LAUNCH("ceiling kernels");
        end.record(cuda_stream);
        end.synchronize();
        if (i > 0) milliseconds.push_back(end.elapsed_ms(start));  // the first one warms up
    }
    std::sort(milliseconds.begin(), milliseconds.end());
    return milliseconds[kRepeats / 2] * 1e-3;
}

// Writes a different word everywhere: zeros may be faster to move than data.
__global__ void fill_words(uint4* words, size_t count) {
    for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += size_t{gridDim.x} * blockDim.x) {
        const auto word = static_cast<uint32_t>(i * 2654435761u);
        words[i] = make_uint4(word, ~word, word ^ 0x55555555u, word + 12345u);
    }
}

// Every thread reads 4 x 16 bytes at a time; `sink` keeps the reads and is never written with these words.
__global__ void __launch_bounds__(512) read_words(const uint4* words, size_t count, uint32_t* sink) {
    constexpr int kUnroll = 4;
    uint32_t mixed = 0;
    const size_t step = size_t{gridDim.x} * blockDim.x;
    size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x;
    for (; i + (kUnroll - 1) * step < count; i += kUnroll * step) {
        uint4 loaded[kUnroll];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) loaded[u] = __ldcs(words + i + u * step);
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) mixed ^= loaded[u].x ^ loaded[u].y ^ loaded[u].z ^ loaded[u].w;
    }
    if (mixed == 0xdeadbeefu) *sink = mixed;
}

constexpr int kMatrixThreads = 256;
constexpr int kMatrixRounds = 4096;

__device__ uint32_t random_halves(uint32_t seed) {
    // Two float16 between 1 and 2 with random mantissas.
    seed *= 2654435761u;
    return ((seed ^ seed >> 15) & 0x03ff03ffu) | 0x3c003c00u;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Every warpgroup multiplies [64, 16] from registers by [16, 256] from shared memory, again and again.
__global__ void __launch_bounds__(kMatrixThreads, 1) multiply(float* sink) {
    __shared__ alignas(1024) uint32_t tile[256 * 32];
    for (int i = threadIdx.x; i < 256 * 32; i += kMatrixThreads) tile[i] = random_halves(i);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    uint32_t a[4];
    for (int i = 0; i < 4; ++i) a[i] = random_halves(threadIdx.x * 4 + i);
    float d[128] = {};
    const uint64_t b = wgmma_tile(static_cast<uint32_t>(__cvta_generic_to_shared(tile)));
    for (int round = 0; round < kMatrixRounds / 4; ++round) {
        begin_wgmma();
#pragma unroll
        for (int step = 0; step < 4; ++step) wgmma<__half, 256>(d, a, b + 2 * step);
        commit_wgmma();
        wait_for_wgmma<0>(d);
    }
    float sum = 0;
    for (const float value : d) sum += value;
    if (sum == -1.0f) *sink = sum;
}
#else
__global__ void __launch_bounds__(kMatrixThreads, 1) multiply(float* sink) {
    uint32_t a[4], b[2];
    for (int i = 0; i < 4; ++i) a[i] = random_halves(threadIdx.x * 6 + i);
    for (int i = 0; i < 2; ++i) b[i] = random_halves(threadIdx.x * 6 + 4 + i);
    constexpr int kChains = 8;
    float c[kChains][4] = {};
    for (int round = 0; round < kMatrixRounds; ++round)
#pragma unroll
        for (int chain = 0; chain < kChains; ++chain) mma_m16n8k16<__half>(c[chain], a, b[0], b[1]);
    float sum = 0;
    for (const auto& chain : c) sum += chain[0] + chain[1] + chain[2] + chain[3];
    if (sum == -1.0f) *sink = sum;
}
#endif

// Operations of one block of multiply(), which differs between the targets of the build.
double multiply_operations(bool sm90a) {
    if (sm90a) return 2.0 * 64 * 256 * 16 * kMatrixRounds * (kMatrixThreads / 128);
    return 2.0 * 16 * 8 * 16 * 8 * kMatrixRounds * (kMatrixThreads / 32);
}

// Of the fastest plain read of 4 GB, or of half of what is free where that is less.
double read_bandwidth(const MemoryPool& pool, const CudaStream& cuda_stream, MemoryTracker& tracker) {
    size_t free_bytes = 0, total_bytes = 0;
    TL_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
    const size_t count = std::min<size_t>(4ull << 30, free_bytes / 2) / sizeof(uint4);
    const CudaBuffer<uint4> words(pool, cuda_stream, count, tracker, Component::Workspace, "read bandwidth");
    const CudaBuffer<uint32_t> sink(pool, cuda_stream, 1, tracker, Component::Workspace, "read bandwidth sink");
    const int blocks = device_traits().num_sms * 4;
    fill_words<<<blocks, 512, 0, cuda_stream.get()>>>(words.data(), count);
    TL_CUDA_CHECK_LAUNCH("fill_words");
    const double seconds = median_seconds(
        cuda_stream, [&] { read_words<<<blocks, 512, 0, cuda_stream.get()>>>(words.data(), count, sink.data()); });
    return static_cast<double>(count * sizeof(uint4)) / seconds;
}

// Of the tensor cores, with random float16 inputs that already lie in registers and shared memory.
double matrix_rate(const MemoryPool& pool, const CudaStream& cuda_stream, MemoryTracker& tracker) {
    const CudaBuffer<float> sink(pool, cuda_stream, 1, tracker, Component::Workspace, "matrix rate sink");
    const DeviceTraits& traits = device_traits();
    const double seconds = median_seconds(
        cuda_stream, [&] { multiply<<<traits.num_sms, kMatrixThreads, 0, cuda_stream.get()>>>(sink.data()); });
    return multiply_operations(traits.sm90a) * traits.num_sms / seconds;
}

}  // namespace

Ceilings cuda_ceilings(int32_t device) {
    const DeviceScope scope(device);
    MemoryTracker tracker;
    const MemoryPool pool;
    const CudaStream cuda_stream;
    const double bandwidth = read_bandwidth(pool, cuda_stream, tracker);
    return {bandwidth, matrix_rate(pool, cuda_stream, tracker)};
}

}  // namespace tinyllm::bench
