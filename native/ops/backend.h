// Backend: one device. Its ops, its memory, its way to run a step.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <source_location>
#include <string>

#include "memory/allocation.h"
#include "ops/ops.h"

namespace tinyllm {

// Where the rows of a tensor land in a fused weight: row r of the tensor is row `start + r * stride` of the weight.
struct RowMap {
    int32_t start = 0;
    int32_t stride = 1;
};

// A tensor as it comes from a checkpoint: row-major on the host, perhaps unaligned.
struct HostTensor {
    DType dtype = DType::F32;  // F32, F16 or BF16
    int64_t rows = 0;          // 1 for vectors
    int64_t cols = 0;
    const void* data = nullptr;
};

struct DeviceMemory {
    uint64_t free_bytes = 0;
    uint64_t total_bytes = 0;
};

// What makes two steps the same for a captured graph: equal keys do the same launches on the same pointers.
struct StepKey {
    Phase phase = Phase::Decode;
    int32_t num_rows = 0;
    int32_t max_kv_len = 0;
    bool greedy = false;
    bool penalty = false;
};

class Backend : public Ops {
public:
    virtual DeviceKind kind() const = 0;

    // Memory of this device, contents undefined; `tracker` must outlive it. Throws OutOfMemory.
    virtual AllocationPtr allocate(MemoryTracker& tracker, Component component, size_t bytes, const std::string& name,
                                   std::source_location where = std::source_location::current()) = 0;
    // In queue order; `source` may be reused on return.
    virtual void upload(void* target, const void* source, size_t bytes) = 0;
    // In queue order; returns when `target` holds the data.
    virtual void download(void* target, const void* source, size_t bytes) = 0;
    virtual void fill_zero(void* target, size_t bytes) = 0;
    // Waits until the queue is empty.
    virtual void synchronize() = 0;
    virtual DeviceMemory device_memory() const = 0;
    // Memory that the kernels may use freely during a step; ops/registry.h says how much a configuration needs.
    virtual void bind_scratch(void* data, size_t bytes) = 0;

    // Quantises (W8A16) or converts (NONE) a checkpoint tensor into the packed layout; `rows` says where its rows land.
    // W8A16: q = clamp(round_half_even(w / scale), -127, 127), and 0 where the scale is 0. `scales` is host memory,
    // [tensor.rows, groups], finite and not negative; null: f16(absmax / 127) of each group. `tensor.data` and `scales`
    // may be reused on return. Returns the flat index of the first NaN or Inf (or of a value whose absmax / 127
    // overflows f16 or, with NONE, that overflows the activation type), -1 if none. `tracker` accounts for staging
    // memory.
    virtual int64_t load_linear(MemoryTracker& tracker, const LinearWeight& weight, const RowMap& rows,
                                const HostTensor& tensor, const f16* scales) = 0;
    // Gives back what load_linear keeps from call to call (staging memory). The `tracker` of those calls must live
    // until then, or until the backend is gone.
    virtual void finish_load() {}

    // The decode step to run in place of `key`: num_rows and max_kv_len may be raised (with padding rows, at most
    // max_batch_size) so that few different steps are captured.
    virtual StepKey round_up(const StepKey& key, const EngineConfig& /*config*/) const { return key; }

    // What the device can do at best, measured now for benchmarks: bytes a second of reading a block larger than the
    // caches, and floating-point operations a second of its matrix (or vector) units with 16-bit inputs.
    virtual double measure_read_bandwidth(MemoryTracker& tracker) = 0;
    virtual double measure_matrix_rate(MemoryTracker& tracker) = 0;

    // Runs `body`, which enqueues one step. A backend that can captures it once a key and replays it.
    virtual void run_step(const StepKey& key, const std::function<void()>& body) = 0;
    // Device memory that the steps captured so far take, by the driver's count of free bytes. In no plan and no
    // tracker.
    virtual uint64_t captured_bytes() const { return 0; }
};

}  // namespace tinyllm
