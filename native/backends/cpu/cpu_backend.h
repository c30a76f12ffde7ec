// The CPU backend: ops on host memory, run by the thread pool of core/parallel.h.
#pragma once

#include <memory>

#include "backends/cpu/linear/linear.h"
#include "backends/cpu/measure/measure.h"
#include "backends/cpu/simd/isa.h"
#include "backends/cpu/simd/kernels.h"
#include "ops/backend.h"
#include "ops/model_shapes.h"

namespace tinyllm {
struct KVCacheConfig;
}

namespace tinyllm::cpu {

// Each op is in the file of its name. Everything is done when a call returns, so there is no queue to wait for.
class CpuBackend : public Backend {
public:
    // `isa` must be one that the processor has (detected_isa() or lower).
    explicit CpuBackend(CpuIsa isa) : isa_(isa), kernels_(kernels(isa)) {}

    DeviceKind kind() const override { return DeviceKind::Cpu; }
    AllocationPtr allocate(MemoryTracker& tracker, Component component, size_t bytes, const std::string& name,
                           std::source_location where = std::source_location::current()) override;
    void upload(void* target, const void* source, size_t bytes) override;
    void download(void* target, const void* source, size_t bytes) override;
    void fill_zero(void* target, size_t bytes) override;
    void synchronize() override {}
    DeviceMemory device_memory() const override;
    void bind_scratch(void* data, size_t bytes) override;
    int64_t load_linear(MemoryTracker& tracker, const LinearWeight& weight, const RowMap& rows,
                        const HostTensor& tensor, const LinearLoad& load) override;
    void fill_random(const LinearWeight& weight, uint64_t seed) override;
    double measure_read_bandwidth(MemoryTracker& tracker) override { return read_bandwidth(tracker); }
    double measure_matrix_rate(MemoryTracker&) override { return matrix_rate(isa_); }
    void run_step(const StepKey& key, const std::function<void()>& body) override;

    void embed(const StepBatch& batch, const LinearWeight& table, uint32_t* seen, void* hidden) override;
    void rope_table(const StepBatch& batch, const RopeParams& rope, float* cos_sin) override;
    void qkv(const StepBatch& batch, const QkvWeights& weights, const AttentionShape& shape, const RopeParams& rope,
             const float* cos_sin, const void* hidden, void* normed, void* qkv, const KvLayer& kv) override;
    void attention(const StepBatch& batch, const AttentionShape& shape, const void* qkv, const KvLayer& kv,
                   void* out) override;
    void linear_residual(const StepBatch& batch, const LinearWeight& weight, const void* x, void* hidden) override;
    void gate_up(const StepBatch& batch, const NormWeight& norm, const LinearWeight& gate_up, const void* hidden,
                 void* normed, void* out) override;
    void logits(const StepBatch& batch, const NormWeight& norm, const LinearWeight& head, const void* hidden,
                void* normed, float* logits) override;
    void sample(const StepBatch& batch, int32_t vocab_size, const uint32_t* seen, float* logits,
                SampledToken* out) override;

private:
    // Start of the bound scratch, which must hold `bytes`.
    void* scratch(int64_t bytes) const;
    void run_linear(const StepBatch& batch, const LinearWeight& weight, const void* x, int64_t rows,
                    const LinearOutput& out);

    CpuIsa isa_;
    const CpuKernels& kernels_;
    void* scratch_ = nullptr;
    int64_t scratch_bytes_ = 0;
};

// Opens the CPU with the instruction sets that it has. Throws a Config error for a bad TINYLLM_CPU_ISA or
// TINYLLM_NUM_THREADS.
std::unique_ptr<Backend> make_backend();

// Never throws: where an environment variable is wrong, `usable` is 0 and the description says why.
tl_device_info device_info();

// Bytes for bind_scratch: what the op that needs most needs, for any step with this KV cache.
int64_t scratch_bytes(const ModelShapes& model, const KVCacheConfig& kv_cache);

}  // namespace tinyllm::cpu
