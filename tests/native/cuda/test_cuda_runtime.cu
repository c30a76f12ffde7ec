// The CUDA runtime layer: ownership, order, transfers, errors (native/backends/cuda/runtime, runtime/host_transfer.h).
#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "backends/cuda/device/dependency.cuh"
#include "backends/cuda/runtime/cuda_event.h"
#include "backends/cuda/runtime/device_info.h"
#include "backends/cuda/runtime/launch.h"
#include "backends/cuda/runtime/pinned_buffer.h"
#include "check.h"
#include "cuda/cuda_fixture.cuh"

namespace tinyllm::test {

using namespace cuda;

namespace {

// Highest compute capability of the code in this program that a device of `capability` runs, from the list that CMake
// was given (CMAKE_CUDA_ARCHITECTURES): "80-real" is machine code for 8.x from 8.0 up, "90a-real" for 9.0 alone, and
// "80-virtual" is PTX for everything from 8.0 up; without a suffix both. 0: none.
int code_capability(int capability) {
    int best = 0;
    std::string_view list = TINYLLM_CUDA_ARCHITECTURES;
    while (!list.empty()) {
        const std::string_view item = list.substr(0, list.find(','));
        list.remove_prefix(std::min(item.size() + 1, list.size()));
        int code = 0;
        const char* const end = std::from_chars(item.data(), item.data() + item.size(), code).ptr;
        const bool specific = end != item.data() + item.size() && *end == 'a';
        const bool machine_code = item.find("virtual") == item.npos, ptx = item.find("real") == item.npos;
        const bool runs = specific ? code == capability
                                   : (ptx && code <= capability) ||
                                         (machine_code && code <= capability && code / 10 == capability / 10);
        if (runs) best = std::max(best, code);
    }
    return best;
}

constexpr int kSpinCycles = 2'000'000;  // about a millisecond: longer than a launch takes

__global__ void write_late_kernel(int32_t* value) {
    wait_for_predecessor();
    release_successor();  // the next kernel starts long before the value is there
    const long long start = clock64();
    while (clock64() - start < kSpinCycles) {
    }
    *value = 7;
}

__global__ void copy_kernel(const int32_t* from, int32_t* to) {
    wait_for_predecessor();
    release_successor();
    *to = *from;
}

}  // namespace

TEST_CASE("buffer is tracked while it lives") {
    Gpu gpu;
    {
        const CudaBuffer<int32_t> buffer = gpu.buffer(1000);
        CHECK(buffer.data() != nullptr);
        CHECK(buffer.size() == 1000);
        CHECK(buffer.bytes() == 4000);
        CHECK(buffer.device() == 0);
        CHECK(buffer.cuda_stream() == gpu.cuda_stream.get());
        CHECK(gpu.tracker.stats(Component::Workspace).current_bytes == 4000);
        CHECK(gpu.tracker.stats(Component::Workspace).live_count == 1);
    }
    CHECK(gpu.live_bytes() == 0);
    CHECK(gpu.tracker.total().peak_bytes == 4000);
}

TEST_CASE("empty buffer holds nothing") {
    Gpu gpu;
    const CudaBuffer<int32_t> none, empty = gpu.buffer(0);
    CHECK(none.data() == nullptr);
    CHECK(none.size() == 0);
    CHECK(empty.data() == nullptr);
    CHECK(empty.size() == 0);
    CHECK(gpu.tracker.total().total_count == 0);
}

TEST_CASE("moving a buffer hands its memory over") {
    Gpu gpu;
    CudaBuffer<int32_t> first = gpu.buffer(10);
    int32_t* const data = first.data();
    CudaBuffer<int32_t> second = std::move(first);
    CHECK(second.data() == data);
    CHECK(second.size() == 10);
    CHECK(first.data() == nullptr);
    CHECK(first.size() == 0);
    CHECK(first.bytes() == 0);
    CudaBuffer<int32_t> third = gpu.buffer(20);
    third = std::move(second);
    CHECK(third.data() == data);
    CHECK(third.size() == 10);
    CHECK(gpu.live_bytes() == 40);  // the 20 elements that `third` held are free
    CudaBuffer<int32_t>& same = third;
    third = std::move(same);
    CHECK(third.data() == data);
    CHECK(gpu.live_bytes() == 40);
}

TEST_CASE("fresh memory is poisoned in debug mode") {
    Gpu gpu;
    CHECK(all_equal(contents(gpu, gpu.buffer(1000)), -1));
}

TEST_CASE("too large a buffer is out of memory and harmless") {
    Gpu gpu;
    const CudaBuffer<int32_t> before = zeros(gpu);
    CHECK_THROWS_WITH(gpu.buffer(size_t{1} << 50),
                      doctest::Contains("out of GPU memory: 4503599627370496 bytes for workspace 'test'"));
    CHECK_THROWS_WITH(gpu.buffer(~size_t{0}),
                      doctest::Contains("'test' would have 18446744073709551615 elements of 4 bytes"));
    try {
        gpu.buffer(size_t{1} << 50);
    } catch (const Error& error) {
        CHECK(error.status() == TL_STATUS_OUT_OF_MEMORY);
    }
    CHECK(gpu.live_bytes() == before.bytes());
    add(gpu, before, 3);  // the launch check does not find the old error
    CHECK(all_equal(contents(gpu, before), 3));
}

TEST_CASE("a failing constructor leaves no live byte") {
    Gpu gpu;
    MemoryTracker::fail_after(1);
    CHECK_THROWS_WITH(gpu.buffer(1000), doctest::Contains("injected"));
    CHECK(gpu.live_bytes() == 0);
    MemoryTracker::fail_after(2);  // the second of two members
    struct Two {
        explicit Two(Gpu& gpu) : first(gpu.buffer(10)), second(gpu.buffer(10)) {}
        CudaBuffer<int32_t> first, second;
    };
    CHECK_THROWS_WITH(Two(gpu), doctest::Contains("injected"));
    MemoryTracker::fail_after(0);
    CHECK(gpu.live_bytes() == 0);
    MemoryTracker pinned;
    MemoryTracker::fail_after(1);
    CHECK_THROWS_WITH((PinnedBuffer<char>(pinned, Component::Staging, 100, "test")), doctest::Contains("injected"));
    MemoryTracker::fail_after(0);
    CHECK(pinned.total().current_bytes == 0);
}

TEST_CASE("pool keeps freed memory until trimmed") {
    Gpu gpu;
    {
        const CudaBuffer<int32_t> buffer = gpu.buffer(1 << 20);
    }
    gpu.cuda_stream.synchronize();
    CHECK(gpu.pool.used_bytes() == 0);
    CHECK(gpu.pool.reserved_bytes() >= 4 << 20);
    gpu.pool.trim();
    CHECK(gpu.pool.reserved_bytes() == 0);
}

TEST_CASE("a buffer outlives its pool") {
    const DeviceScope scope(0);
    MemoryTracker tracker;
    const CudaStream cuda_stream;
    auto pool = std::make_unique<MemoryPool>();
    CudaBuffer<int32_t> buffer(*pool, cuda_stream, kSize, tracker, Component::Workspace, "test");
    pool.reset();
    TL_CUDA_CHECK(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), cuda_stream.get()));
    cuda_stream.synchronize();
    buffer = {};
    cuda_stream.synchronize();
    CHECK(tracker.total().current_bytes == 0);
}

TEST_CASE("transfers of any size arrive in order") {
    Gpu gpu;
    // Below, at and above the pinned buffers of runtime/host_transfer.cpp.
    for (const size_t size : {size_t{1}, size_t{1} << 20, (size_t{9} << 20) + 5}) {
        std::vector<unsigned char> sent(size);
        for (size_t i = 0; i < size; ++i) sent[i] = static_cast<unsigned char>(i * 2654435761u >> 16);
        const CudaBuffer<unsigned char> buffer = gpu.buffer<unsigned char>(size);
        std::vector<unsigned char> source = sent;
        gpu.transfer.upload(buffer.data(), source.data(), size);
        std::memset(source.data(), 0, size);  // upload promises that this is too late to matter
        CHECK(contents(gpu, buffer) == sent);
    }
}

TEST_CASE("events order two streams") {
    Gpu gpu;
    const CudaBuffer<int32_t> buffer = zeros(gpu);
    const CudaStream other;
    CudaEvent zeroed(EventTiming::On), added(EventTiming::On);
    zeroed.record(gpu.cuda_stream);
    zeroed.block(other);
    add_kernel<<<1, kSize, 0, other.get()>>>(buffer.data(), 5);
    TL_CUDA_CHECK_LAUNCH("add_kernel");
    added.record(other);
    added.block(gpu.cuda_stream);
    CHECK(all_equal(contents(gpu, buffer), 5));
    CHECK(added.elapsed_ms(zeroed) >= 0);
}

TEST_CASE("an error names call place and cause") {
    Gpu gpu;
    const auto bad_call = [] { TL_CUDA_CHECK(cudaSetDevice(12345)); };
    CHECK_THROWS_WITH(
        bad_call(), doctest::Contains("cudaErrorInvalidDevice (invalid device ordinal) from cudaSetDevice(12345) at "));
    CHECK_THROWS_WITH(bad_call(), doctest::Contains("test_cuda_runtime.cu:"));
    const CudaBuffer<int32_t> buffer = zeros(gpu);
    CHECK_THROWS_WITH(add(gpu, buffer, 1, 4096), doctest::Contains("from launch of add_kernel at "));
    try {
        bad_call();
    } catch (const CudaError& error) {
        CHECK(error.status() == TL_STATUS_CUDA);
        CHECK(error.code() == cudaErrorInvalidDevice);
    }
    add(gpu, buffer, 2);  // and is reported once
    CHECK(all_equal(contents(gpu, buffer), 2));
}

TEST_CASE("a scope on a missing device throws") {
    CHECK_THROWS_WITH(DeviceScope(kMaxDevices - 1), doctest::Contains("cudaErrorInvalidDevice"));
}

TEST_CASE("devices are described") {
    const std::vector<tl_device_info> devices = query_cuda_devices();
    CHECK(!devices.empty());
    const tl_device_info& gpu = devices.front();
    CHECK(gpu.usable == 1);
    CHECK(gpu.compute_capability >= kMinComputeCapability);
    CHECK(gpu.num_units > 0);
    CHECK(gpu.total_bytes > 0);
    CHECK(gpu.free_bytes > 0);
    CHECK(gpu.free_bytes <= gpu.total_bytes);
    CHECK(std::strlen(gpu.name) > 0);
    CHECK(std::strstr(gpu.description, "compute capability") != nullptr);
    CHECK(cuda_device_problem(static_cast<int>(devices.size())).find("use an index from 0 to") != std::string::npos);
    CHECK(device_traits().compute_capability == gpu.compute_capability);
}

TEST_CASE("kernels overlap only where device and code can") {
    // Code for less than 9.0 has no dependency wait, also where a 9.0 device runs it.
    const int capability = device_traits().compute_capability;
    CHECK(device_traits().programmatic_launch == (capability >= 90 && code_capability(capability) >= 90));
    Gpu gpu;
    const CudaBuffer<int32_t> buffer = zeros(gpu);
    const LaunchShape one_thread{dim3(1), dim3(1)};
    for (int32_t i = 1; i <= 20; ++i) {
        launch_overlapped("launch of write_late_kernel", write_late_kernel, one_thread, gpu.cuda_stream.get(),
                          buffer.data());
        launch_overlapped("launch of copy_kernel", copy_kernel, one_thread, gpu.cuda_stream.get(), buffer.data(),
                          buffer.data() + i);
        TL_CUDA_CHECK(cudaMemsetAsync(buffer.data(), 0, sizeof(int32_t), gpu.cuda_stream.get()));
    }
    const std::vector<int32_t> values = contents(gpu, buffer);
    CHECK(all_equal({values.begin() + 1, values.begin() + 21}, 7));
}

}  // namespace tinyllm::test
