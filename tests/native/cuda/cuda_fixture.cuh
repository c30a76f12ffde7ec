// An opened GPU and the little kernel that the tests of the CUDA runtime layer launch.
#pragma once

#include <vector>

#include "backends/cuda/runtime/cuda_buffer.h"
#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_scope.h"
#include "backends/cuda/runtime/host_transfer.h"
#include "backends/cuda/runtime/pool.h"

namespace tinyllm::test {

using namespace cuda;

// A device opened for one test; members in the order in which an engine holds them.
struct Gpu {
    DeviceScope scope{0};
    MemoryTracker tracker;
    MemoryPool pool;
    CudaStream cuda_stream;
    MemoryTracker transfer_tracker;
    HostTransfer transfer{cuda_stream, transfer_tracker};

    template <typename T = int32_t>
    CudaBuffer<T> buffer(size_t size) {
        return {pool, cuda_stream, size, tracker, Component::Workspace, "test"};
    }
    uint64_t live_bytes() const { return tracker.total().current_bytes; }
};

template <typename T>
std::vector<T> contents(Gpu& gpu, const CudaBuffer<T>& buffer) {
    std::vector<T> values(buffer.size());
    gpu.transfer.download(values.data(), buffer.data(), buffer.bytes());
    return values;
}

static __global__ void add_kernel(int32_t* values, int32_t addend) { values[threadIdx.x] += addend; }

constexpr int32_t kSize = 256;

inline void add(const Gpu& gpu, const CudaBuffer<int32_t>& buffer, int32_t addend, unsigned threads = kSize) {
    add_kernel<<<1, threads, 0, gpu.cuda_stream.get()>>>(buffer.data(), addend);
    TL_CUDA_CHECK_LAUNCH("add_kernel");
}

inline CudaBuffer<int32_t> zeros(Gpu& gpu) {
    CudaBuffer<int32_t> buffer = gpu.buffer(kSize);
    TL_CUDA_CHECK(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), gpu.cuda_stream.get()));
    return buffer;
}

inline bool all_equal(const std::vector<int32_t>& values, int32_t expected) {
    for (const int32_t value : values)
        if (value != expected) return false;
    return !values.empty();
}

}  // namespace tinyllm::test
