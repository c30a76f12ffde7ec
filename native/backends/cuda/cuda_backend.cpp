#include "backends/cuda/cuda_backend.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <set>
#include <tuple>

#include "backends/cuda/attention/attention.h"
#include "backends/cuda/linear/linear.h"
#include "backends/cuda/loading/random_weights.h"
#include "backends/cuda/loading/weight_stager.h"
#include "backends/cuda/measure.h"
#include "backends/cuda/rows/rows.h"
#include "backends/cuda/runtime/cuda_buffer.h"
#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_info.h"
#include "backends/cuda/runtime/device_scope.h"
#include "backends/cuda/runtime/driver_ledger.h"
#include "backends/cuda/runtime/graph_cache.h"
#include "backends/cuda/runtime/host_transfer.h"
#include "config/engine_config.h"
#include "core/error.h"

namespace tinyllm::cuda {

namespace {

// Decode steps are captured for a few row counts and context lengths. Rows cost the kernels little up to the next tile
// of 8 (the narrow side of an mma.sync), so the counts are 1, 2, 4 and the multiples of 8. A longer context costs empty
// blocks in attention, so the lengths are powers of two.
constexpr int32_t kRowBucket = 8;
constexpr int32_t kSmallestContextBucket = 256;

int32_t rounded_rows(int32_t rows) {
    if (rows <= kRowBucket) return static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(rows)));
    return (rows + kRowBucket - 1) / kRowBucket * kRowBucket;
}

// A block of device memory as the engine holds it. The backend must outlive it.
class CudaAllocation final : public Allocation {
public:
    explicit CudaAllocation(CudaBuffer<std::byte> buffer) : buffer_(std::move(buffer)) {
        data_ = buffer_.data();
        bytes_ = buffer_.bytes();
    }

private:
    CudaBuffer<std::byte> buffer_;
};

class CudaBackend final : public Backend {
public:
    // PRECOND: `index` is the current device, and usable.
    explicit CudaBackend(int32_t index) : device_(index) {
        device_traits();  // fails now rather than at the first launch where the build has no code for the device
    }

    ~CudaBackend() override {
        release_on(device_, [this] {
            // Memory goes back to the driver with the pool only if every free has happened by then.
            TL_CUDA_CHECK_NOTHROW(cudaStreamSynchronize(cuda_stream_.get()));
            graphs_.clear(device_);  // here, where the ledger can book it
        });
    }

    DeviceKind kind() const override { return DeviceKind::Cuda; }

    AllocationPtr allocate(MemoryTracker& tracker, Component component, size_t bytes, const std::string& name,
                           std::source_location where) override {
        const DeviceScope scope(device_);
        return std::make_unique<CudaAllocation>(
            CudaBuffer<std::byte>(pool_, cuda_stream_, bytes, tracker, component, name, where));
    }

    void upload(void* target, const void* source, size_t bytes) override {
        const DeviceScope scope(device_);
        transfer_.upload(target, source, bytes);
    }

    void download(void* target, const void* source, size_t bytes) override {
        const DeviceScope scope(device_);
        transfer_.download(target, source, bytes);
    }

    void fill_zero(void* target, size_t bytes) override {
        const DeviceScope scope(device_);
        if (bytes > 0) TL_CUDA_CHECK(cudaMemsetAsync(target, 0, bytes, cuda_stream_.get()));
    }

    void synchronize() override {
        const DeviceScope scope(device_);
        transfer_.synchronize();
    }

    DeviceMemory device_memory() const override {
        const DeviceScope scope(device_);
        size_t free_bytes = 0, total_bytes = 0;
        TL_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
        return {free_bytes, total_bytes};
    }

    DriverMemory driver_memory() const override {
        const DeviceScope scope(device_);
        return DriverLedger::of(device_).report(pool_);
    }

    void bind_scratch(void* data, size_t bytes) override {
        TL_CHECK(static_cast<int64_t>(bytes) >= kCounterBytes);
        TL_CHECK(reinterpret_cast<uintptr_t>(data) % kScratchAlign == 0);
        const DeviceScope scope(device_);
        graphs_.clear(device_);  // they captured the old scratch
        scratch_ = {static_cast<char*>(data) + kCounterBytes, static_cast<int64_t>(bytes) - kCounterBytes,
                    static_cast<uint32_t*>(data)};
        TL_CUDA_CHECK(cudaMemsetAsync(scratch_.counters, 0, kCounterBytes, cuda_stream_.get()));
    }

    int64_t load_linear(MemoryTracker& tracker, const LinearWeight& weight, const RowMap& rows,
                        const HostTensor& tensor, const LinearLoad& load) override {
        const DeviceScope scope(device_);
        std::optional<DriverMeter> meter;
        const LoadKind kind{weight.quantization,
                            weight.dtype,
                            tensor.dtype,
                            load.search_scales,
                            load.output_moments != nullptr,
                            load.column_moments != nullptr};
        if (!loads_.contains(kind)) meter.emplace(device_, DriverUse::Modules, &pool_);
        if (!stager_) stager_.emplace(pool_, cuda_stream_, transfer_, tracker);
        const int64_t bad = stager_->load(weight, rows, tensor, load);
        loads_.insert(kind);
        return bad;
    }

    void fill_random(const LinearWeight& weight, uint64_t seed) override {
        const DeviceScope scope(device_);
        const DriverMeter meter(device_, DriverUse::Modules);
        cuda::fill_random(cuda_stream_.get(), weight, seed);
    }

    void finish_load() override {
        const DeviceScope scope(device_);
        stager_.reset();
        cuda_stream_.synchronize();
        pool_.trim();
    }

    StepKey round_up(const StepKey& key, const EngineConfig& config) const override {
        StepKey rounded = key;
        rounded.num_rows = std::min(rounded_rows(key.num_rows), config.kv_cache.max_batch_size);
        rounded.max_kv_len = std::max(key.max_kv_len, kSmallestContextBucket);
        rounded.max_kv_len = static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(rounded.max_kv_len)));
        rounded.max_kv_len = std::min(rounded.max_kv_len, config.kv_cache.pages_per_seq() * kPageTokens);
        return rounded;
    }

    double measure_read_bandwidth(MemoryTracker& tracker) override {
        const DeviceScope scope(device_);
        return cuda_read_bandwidth(pool_, cuda_stream_, tracker);
    }

    double measure_matrix_rate(MemoryTracker& tracker) override {
        const DeviceScope scope(device_);
        return cuda_matrix_rate(pool_, cuda_stream_, tracker);
    }

    void run_step(const StepKey& key, const std::function<void()>& body) override {
        const DeviceScope scope(device_);
        // Prefill steps differ in their row counts and are long enough to hide their launches.
        if (key.phase == Phase::Decode) return graphs_.run(key, cuda_stream_, body);
        // Which kernels a step takes depends on little more than the size of its row count and on how it samples.
        const PrefillKind kind{std::bit_width(static_cast<uint32_t>(key.num_rows)), key.max_kv_len > 0, key.greedy,
                               key.penalty};
        if (prefills_.contains(kind)) return body();
        const DriverMeter meter(device_, DriverUse::Modules);
        body();
        prefills_.insert(kind);
    }

    void embed(const StepBatch& batch, const LinearWeight& table, uint32_t* seen, void* hidden) override {
        const DeviceScope scope(device_);
        cuda::embed(cuda_stream_.get(), batch, table, seen, hidden);
    }

    void rope_table(const StepBatch& batch, const RopeParams& rope, float* cos_sin) override {
        const DeviceScope scope(device_);
        cuda::rope_table(cuda_stream_.get(), batch, rope, cos_sin);
    }

    void qkv(const StepBatch& batch, const QkvWeights& weights, const AttentionShape& shape, const RopeParams& rope,
             const float* cos_sin, const void* hidden, void* normed, void* qkv, const KvLayer& kv) override {
        const DeviceScope scope(device_);
        normed_linear(batch, {weights.input_norm, nullptr, normed}, weights.qkv, hidden, batch.num_rows,
                      {LinearOutput::Kind::Store, qkv, shape.qkv_dim()});
        cuda::rope_append(cuda_stream_.get(), batch, weights, shape, rope.rotary_dim, cos_sin, qkv, kv);
    }

    void attention(const StepBatch& batch, const AttentionShape& shape, const void* qkv, const KvLayer& kv,
                   void* out) override {
        const DeviceScope scope(device_);
        cuda::attention(cuda_stream_.get(), scratch_, batch, shape, {}, {}, batch.dtype, qkv, kv, out);
    }

    void qkv_attention(const StepBatch& batch, const QkvWeights& weights, const AttentionShape& shape,
                       const RopeParams& rope, const float* cos_sin, const void* hidden, void* normed, void* qkv,
                       const KvLayer& kv, void* out) override {
        if (!has_fused_rope(batch.phase, shape.head_dim))
            return Ops::qkv_attention(batch, weights, shape, rope, cos_sin, hidden, normed, qkv, kv, out);
        const DeviceScope scope(device_);
        normed_linear(batch, {weights.input_norm, nullptr, normed}, weights.qkv, hidden, batch.num_rows,
                      {LinearOutput::Kind::Store, qkv, shape.qkv_dim()});
        cuda::attention(cuda_stream_.get(), scratch_, batch, shape, weights.qkv.hints,
                        {NewestToken::InQkv, weights.q_norm, weights.k_norm, cos_sin, rope.rotary_dim}, batch.dtype,
                        qkv, kv, out);
    }

    void linear_residual(const StepBatch& batch, const LinearWeight& weight, const void* x, void* hidden) override {
        const DeviceScope scope(device_);
        cuda::linear(cuda_stream_.get(), scratch_, batch.phase, batch.dtype, weight, x, weight.k, batch.num_rows,
                     {LinearOutput::Kind::AddTo, hidden, weight.n});
    }

    void gate_up(const StepBatch& batch, const NormWeight& norm, const LinearWeight& gate_up, const void* hidden,
                 void* normed, void* out) override {
        const DeviceScope scope(device_);
        normed_linear(batch, {norm, nullptr, normed}, gate_up, hidden, batch.num_rows,
                      {LinearOutput::Kind::SiluMul, out, gate_up.n / 2});
    }

    void logits(const StepBatch& batch, const NormWeight& norm, const LinearWeight& head, const void* hidden,
                void* normed, float* logits) override {
        const DeviceScope scope(device_);
        normed_linear(batch, {norm, batch.logits_rows, normed}, head, hidden, batch.num_logits,
                      {LinearOutput::Kind::StoreFloat, logits, head.n});
    }

    void sample(const StepBatch& batch, int32_t vocab_size, const uint32_t* seen, float* logits,
                SampledToken* out) override {
        const DeviceScope scope(device_);
        cuda::sample(cuda_stream_.get(), scratch_, batch, vocab_size, seen, logits, out);
    }

private:
    using LoadKind = std::tuple<QuantizationType, DType, DType, bool, bool, bool>;
    using PrefillKind = std::tuple<int, bool, bool, bool>;

    void normed_linear(const StepBatch& batch, const InputNorm& norm, const LinearWeight& weight, const void* x,
                       int32_t rows, const LinearOutput& out) {
        cuda::normed_linear(cuda_stream_.get(), scratch_, batch.phase, batch.dtype, norm, weight, x, rows, out);
    }

    const int device_;
    MemoryTracker own_memory_;  // pinned memory, which no plan of device memory counts
    MemoryPool pool_;
    CudaStream cuda_stream_;
    HostTransfer transfer_{cuda_stream_, own_memory_};
    GraphCache graphs_;
    std::set<LoadKind> loads_;  // whose kernels are loaded; likewise:
    std::set<PrefillKind> prefills_;
    std::optional<WeightStager> stager_;
    Scratch scratch_;
};

}  // namespace

std::unique_ptr<Backend> make_backend(int32_t index) {
    require_working_device(index);
    const std::string problem = cuda_device_problem(index);
    if (!problem.empty()) fail(TL_STATUS_CONFIG, "GPU ", index, " cannot be used: ", problem);
    DriverLedger& ledger = DriverLedger::of(index);
    ledger.before_context(index);
    const DeviceScope scope(index);
    ledger.open_context();
    const DriverMeter meter(index, DriverUse::Modules);
    return std::make_unique<CudaBackend>(index);
}

std::vector<tl_device_info> list_devices() { return query_cuda_devices(); }

}  // namespace tinyllm::cuda
