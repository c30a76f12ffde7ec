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

struct EngineConfig;

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

// What Backend::load_linear() does with a tensor W in addition to storing it. Arrays are host memory; null: not wanted.
struct LinearLoad {
    // W8A16: each group gets the scale of least error (quantization/scale_search.h) instead of f16(absmax / 127).
    bool search_scales = false;
    const float* importance = nullptr;  // [cols] what that error is weighted by; null: all 1

    // Second moments (quantization/moments.h), for loading/importance.h.
    const float* input_moments = nullptr;  // [cols] m; not null where output_moments is not
    float* output_moments = nullptr;       // [rows] written: (W*W) m
    float* column_moments = nullptr;       // [cols] written: mean of the squares of each column
};

struct DeviceMemory {
    uint64_t free_bytes = 0;
    uint64_t total_bytes = 0;
};

// What a GPU's driver has taken for this process, by its own count of free bytes. Nothing on the CPU.
struct DriverMemory {
    int64_t lost = 0;           // free before the process had a CUDA context, less free now: the sum of what follows
                                // and of the memory that the engine has allocated
    int64_t context = 0;        // 0 where it is not known: made by other code of the process, or no NVML
    int64_t modules = 0;        // code of the kernels used so far, streams and events
    int64_t reserve = 0;        // held back for the code of kernels to come
    int64_t graphs = 0;         // captured steps of all engines
    int64_t pool = 0;           // held by the engine's memory pool but not allocated
    int64_t other_engines = 0;  // held by the pools of the process's other engines
    int64_t unexplained = 0;    // the rest; other processes, and other code of this one, count here
};

// What makes two steps the same for a captured graph: equal keys do the same launches on the same pointers.
struct StepKey {
    Phase phase = Phase::Decode;
    int32_t num_rows = 0;
    int32_t max_kv_len = 0;  // 0: logits of rows that went through the layers before
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
    virtual DriverMemory driver_memory() const { return {}; }
    // Memory that the kernels may use freely during a step; backends/registry.h says how much a configuration needs.
    virtual void bind_scratch(void* data, size_t bytes) = 0;

    // Quantises (W8A16) or converts (NONE) a checkpoint tensor into the packed layout; `rows` says where its rows land.
    // W8A16: q = clamp(round_half_even(w / scale), -127, 127), and 0 where the scale is 0. `load` says how scales are
    // chosen and what else is computed. All host memory may be reused on return. Returns the flat index of the first
    // NaN or Inf (or of a value whose absmax / 127 overflows f16 or, with NONE, that overflows the activation type),
    // -1 if none; where it is not -1, what was written is undefined. `tracker` accounts for staging memory. Backends
    // give the same bits.
    virtual int64_t load_linear(MemoryTracker& tracker, const LinearWeight& weight, const RowMap& rows,
                                const HostTensor& tensor, const LinearLoad& load) = 0;
    // Gives back what load_linear keeps from call to call (staging memory). The `tracker` of those calls must live
    // until then, or until the backend is gone.
    virtual void finish_load() {}
    // Fills all of `weight` but its bias with the made-up values of quantization/random_weights.h, for benchmarks.
    virtual void fill_random(const LinearWeight& weight, uint64_t seed) = 0;

    // The decode step to run in place of `key`: num_rows and max_kv_len may be raised (with padding rows, at most
    // max_batch_size) so that few different steps are captured.
    virtual StepKey round_up(const StepKey& key, const EngineConfig& /*config*/) const { return key; }

    // What the device can do at best, measured now for benchmarks: bytes per second of reading a block larger than the
    // caches, and floating-point operations per second of its matrix (or vector) units with 16-bit inputs.
    virtual double measure_read_bandwidth(MemoryTracker& tracker) = 0;
    virtual double measure_matrix_rate(MemoryTracker& tracker) = 0;

    // Runs `body`, which enqueues one step. A backend with graphs captures it once per key and replays it.
    virtual void run_step(const StepKey& key, const std::function<void()>& body) = 0;
};

}  // namespace tinyllm
