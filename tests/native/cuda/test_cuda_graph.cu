// Captured steps: CudaGraph, GraphCache, and what a warm step may still do.
#include <algorithm>
#include <vector>

#include "backends/cuda/runtime/counters.h"
#include "backends/cuda/runtime/cuda_graph.h"
#include "backends/cuda/runtime/graph_cache.h"
#include "check.h"
#include "cuda/cuda_fixture.cuh"

namespace tinyllm::test {

using namespace cuda;

TEST_CASE("graph replays what was captured") {
    Gpu gpu;
    const CudaBuffer<int32_t> buffer = zeros(gpu);
    CudaGraph graph(gpu.cuda_stream, [&] {
        add(gpu, buffer, 1);
        add(gpu, buffer, 10);
    });
    CHECK(all_equal(contents(gpu, buffer), 0));  // capturing runs nothing
    for (int i = 0; i < 3; ++i) graph.launch(gpu.cuda_stream);
    CHECK(all_equal(contents(gpu, buffer), 33));
    const CudaGraph moved = std::move(graph);
    moved.launch(gpu.cuda_stream);
    CHECK(all_equal(contents(gpu, buffer), 44));
}

TEST_CASE("an abandoned capture leaves the stream working") {
    Gpu gpu;
    const CudaBuffer<int32_t> buffer = zeros(gpu);
    const auto throwing = [&] {
        add(gpu, buffer, 1);
        fail(TL_STATUS_INTERNAL, "in the middle");
    };
    CHECK_THROWS_WITH(CudaGraph(gpu.cuda_stream, throwing), doctest::Contains("in the middle"));
    const auto failing = [&] { add(gpu, buffer, 1, 4096); };
    CHECK_THROWS_WITH(CudaGraph(gpu.cuda_stream, failing), doctest::Contains("launch of add_kernel"));
    add(gpu, buffer, 7);
    CHECK(all_equal(contents(gpu, buffer), 7));
}

TEST_CASE("graph cache runs then captures then replays") {
    Gpu gpu;
    const CudaBuffer<int32_t> buffer = zeros(gpu);
    GraphCache cache;
    const uint64_t captures = runtime_counters().graph_captures, launches = runtime_counters().graph_launches;
    int calls = 0;
    const auto body = [&] {
        ++calls;
        add(gpu, buffer, 1);
    };
    for (int i = 0; i < 5; ++i) cache.run({Phase::Decode, 1, 256, true, false}, gpu.cuda_stream, body);
    CHECK(all_equal(contents(gpu, buffer), 5));
    CHECK(calls == 2);  // once as it is, once captured
    CHECK(runtime_counters().graph_captures - captures == 1);
    CHECK(runtime_counters().graph_launches - launches == 4);
}

TEST_CASE("graph cache drops the least recently used") {
    Gpu gpu;
    const CudaBuffer<int32_t> buffer = zeros(gpu);
    GraphCache cache;
    const auto run = [&](int32_t key) {
        cache.run({Phase::Decode, key, 256, true, false}, gpu.cuda_stream, [&] { add(gpu, buffer, 1); });
    };
    const auto captures_of = [&](int32_t key) {
        const uint64_t before = runtime_counters().graph_captures;
        run(key);
        return runtime_counters().graph_captures - before;
    };
    const int32_t capacity = GraphCache::kCapacity;
    for (int32_t key = 0; key < capacity; ++key) {
        run(key);
        run(key);
    }
    CHECK(captures_of(0) == 0);  // still there, and now the most recent
    run(capacity);               // takes the place of key 1
    run(capacity);
    CHECK(captures_of(0) == 0);
    run(1);
    CHECK(captures_of(1) == 1);
    CHECK(all_equal(contents(gpu, buffer), 2 * capacity + 6));
}

TEST_CASE("a warm step allocates nothing and waits once") {
    Gpu gpu;
    const CudaBuffer<int32_t> buffer = zeros(gpu);
    GraphCache cache;
    std::vector<int32_t> values(kSize);
    const auto step = [&](int32_t input) {
        std::fill(values.begin(), values.end(), input);
        gpu.transfer.upload(buffer.data(), values.data(), buffer.bytes());
        cache.run({}, gpu.cuda_stream, [&] { add(gpu, buffer, 1); });
        gpu.transfer.download(values.data(), buffer.data(), buffer.bytes());
        return values;
    };
    for (int32_t i = 0; i < 2; ++i) step(i);
    const uint64_t allocations = runtime_counters().allocations, waits = runtime_counters().synchronizations;
    for (int32_t i = 0; i < 50; ++i) CHECK(all_equal(step(i), i + 1));
    CHECK(runtime_counters().allocations == allocations);
    CHECK(runtime_counters().synchronizations - waits == 50);
}

}  // namespace tinyllm::test
