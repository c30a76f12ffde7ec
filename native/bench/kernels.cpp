// Every operation of a model by itself: one row an operation, phase and row count. Weights are rotated over copies that
// exceed the last-level cache, so that each run reads them from memory, as in a real step.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>

#include "bench/cost.h"
#include "bench/measure.h"
#include "bench/synthetic.h"
#include "core/error.h"
#include "model/layout.h"
#include "model/weights.h"
#include "ops/registry.h"
#include "runtime/kv_cache.h"

namespace tinyllm::bench {

namespace {

// More than the caches of any machine we know (H200: 60 MB of L2, server CPUs: up to 480 MB of L3 shared by many).
constexpr uint64_t kRotatedBytes = 512ull << 20;
constexpr int kMaxCopies = 64;
constexpr int kCallsPerRun = 32;  // calls that one captured run holds

class KernelBench {
public:
    KernelBench(const Options& options, const Ceilings& ceilings, Report& report)
        : options_(options),
          ceilings_(ceilings),
          report_(report),
          model_(options.model),
          backend_(make_backend(options.device, options.device_index)) {
        EngineConfig engine;
        engine.device_kind = options.device;
        engine.kv_cache = {kDecodeBatches[std::size(kDecodeBatches) - 1], std::max(options.context, 1), 0};
        engine_ = checked(engine);
        const int64_t scratch = scratch_bytes(options.device, model_, engine_);
        scratch_ = allocate(scratch);
        backend_->bind_scratch(scratch_->data(), scratch);
        hidden_ = activations(std::max(model_.hidden_dim, model_.intermediate_dim));
        normed_ = activations(std::max(model_.hidden_dim, model_.q_dim()));
        wide_ = activations(std::max(model_.qkv_dim(), model_.intermediate_dim));
        norm_ = allocate(static_cast<size_t>(model_.hidden_dim) * sizeof(float));
        const std::vector<float> ones(model_.hidden_dim, 1.0f);
        backend_->upload(norm_->data(), ones.data(), ones.size() * sizeof(float));
    }

    void run() {
        std::printf("%-10s %-8s %6s %8s %8s %10s %9s %9s %7s %7s\n", "op", "phase", "rows", "n", "k", "us", "GB/s",
                    "TFLOP/s", "%read", "%matrix");
        for (const int32_t rows : kDecodeBatches) linears(Phase::Decode, rows);
        for (const int32_t rows : options_.prompts) linears(Phase::Prefill, std::min(rows, kMaxRows));
        for (const int32_t rows : kDecodeBatches) head(rows);
        for (const int32_t rows : kDecodeBatches) decode_attention(rows);
    }

private:
    static constexpr int32_t kDecodeBatches[] = {1, 4, 16, 64};
    static constexpr int32_t kMaxRows = 2048;

    AllocationPtr allocate(size_t bytes) { return backend_->allocate(tracker_, Component::Workspace, bytes, "bench"); }

    // Random values of the activation type: [kMaxRows, width].
    AllocationPtr activations(int64_t width) {
        const int64_t count = kMaxRows * width;
        AllocationPtr block = allocate(count * dtype_size(model_.dtype));
        const std::vector<int32_t> random = random_tokens(4096, 1 << 20, width);
        std::vector<char> bytes(block->bytes());
        for (int64_t i = 0; i < count; ++i) {
            const float value = static_cast<float>(random[i % random.size()]) * 0x1p-19f - 1.0f;
            if (model_.dtype == DType::F32)
                std::memcpy(&bytes[i * 4], &value, 4);
            else
                put16(&bytes[i * 2], value);
        }
        backend_->upload(block->data(), bytes.data(), bytes.size());
        return block;
    }
    void put16(char* at, float value) const {
        const uint16_t bits = model_.dtype == DType::F16 ? from_float<f16>(value).bits : from_float<bf16>(value).bits;
        std::memcpy(at, &bits, sizeof bits);
    }

    // Enough copies of a weight to exceed the caches, each loaded from random values.
    std::vector<LinearWeight> rotated(const LinearSpec& spec) {
        const LinearLayout layout = spec.layout(model_, options_.device);
        const uint64_t each = layout.weight_bytes() + layout.scale_bytes();
        const int copies = static_cast<int>(std::clamp<uint64_t>(kRotatedBytes / each + 1, 2, kMaxCopies));
        std::vector<f16> values(static_cast<size_t>(spec.n) * spec.k);
        const std::vector<int32_t> random = random_tokens(8191, 1 << 20, spec.n);
        for (size_t i = 0; i < values.size(); ++i)
            values[i] = from_float<f16>(static_cast<float>(random[i % random.size()]) * 0x1p-19f - 0.999f);
        weights_.clear();
        std::vector<LinearWeight> out;
        for (int i = 0; i < copies; ++i) {
            LinearWeight weight{spec.n, spec.k, spec.quantization, model_.group_length(spec.k), model_.dtype};
            weights_.push_back(allocate(layout.weight_bytes()));
            weight.data = weights_.back()->data();
            backend_->fill_zero(weight.data, layout.weight_bytes());
            if (layout.groups > 0) {
                weights_.push_back(allocate(layout.scale_bytes()));
                weight.scales = weights_.back()->data();
                backend_->fill_zero(weight.scales, layout.scale_bytes());
            }
            backend_->load_linear(tracker_, weight, {}, {DType::F16, spec.n, spec.k, values.data()}, nullptr);
            out.push_back(weight);
        }
        return out;
    }

    // Median seconds of one call; `call(i)` is the i-th of a run.
    double seconds(Phase phase, int32_t rows, const std::function<void(int)>& call) {
        // A key of its own, so that no other captured step is replayed in its place.
        const StepKey key{Phase::Decode, ++run_id_, rows, phase == Phase::Decode, false};
        const auto body = [&] {
            for (int i = 0; i < kCallsPerRun; ++i) call(i);
        };
        backend_->run_step(key, body);
        backend_->synchronize();
        std::vector<double> samples;
        for (int32_t i = 0; i < options_.repeat; ++i) {
            const auto start = std::chrono::steady_clock::now();
            backend_->run_step(key, body);
            backend_->synchronize();
            samples.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
                              kCallsPerRun);
        }
        return summarize(samples).median;
    }

    void row(const std::string& op, Phase phase, int32_t rows, int64_t n, int64_t k, double bytes, double flops,
             double time) {
        const char* phase_name = phase == Phase::Decode ? "decode" : "prefill";
        std::printf("%-10s %-8s %6d %8lld %8lld %10.2f %9.1f %9.2f %6.0f%% %6.0f%%\n", op.c_str(), phase_name, rows,
                    static_cast<long long>(n), static_cast<long long>(k), time * 1e6, bytes / time * 1e-9,
                    flops / time * 1e-12, 100 * bytes / time / ceilings_.read_bandwidth,
                    100 * flops / time / ceilings_.matrix_rate);
        report_.add("kernel", Record()
                                  .add("op", op)
                                  .add("phase", std::string(phase_name))
                                  .add("rows", rows)
                                  .add("n", static_cast<double>(n))
                                  .add("k", static_cast<double>(k))
                                  .add("us", time * 1e6)
                                  .add("gbps", bytes / time * 1e-9)
                                  .add("tflops", flops / time * 1e-12)
                                  .add("share_of_read_bandwidth", bytes / time / ceilings_.read_bandwidth)
                                  .add("share_of_matrix_rate", flops / time / ceilings_.matrix_rate));
    }

    void linear_row(const std::string& op, Phase phase, int32_t rows, const LinearSpec& spec,
                    const std::function<void(const StepBatch&, const LinearWeight&)>& call) {
        const std::vector<LinearWeight> weights = rotated(spec);
        StepBatch batch;
        batch.phase = phase;
        batch.num_rows = rows;
        const double time = seconds(phase, rows, [&](int i) { call(batch, weights[i % weights.size()]); });
        const LinearLayout layout = spec.layout(model_, options_.device);
        row(op, phase, rows, spec.n, spec.k, static_cast<double>(layout.weight_bytes() + layout.scale_bytes()),
            2.0 * rows * spec.n * spec.k, time);
    }

    void linears(Phase phase, int32_t rows) {
        const NormWeight norm{static_cast<const float*>(norm_->data()), model_.rms_norm_eps};
        for (const LinearSpec& spec : linear_specs(model_)) {
            if (spec.name == "layers.0.o_proj" || spec.name == "layers.0.down_proj")
                linear_row(spec.name.substr(9), phase, rows, spec,
                           [&](const StepBatch& batch, const LinearWeight& weight) {
                               backend_->linear_residual(batch, weight, wide_->data(), hidden_->data());
                           });
            if (spec.name == "layers.0.gate_up")
                linear_row("gate_up", phase, rows, spec, [&](const StepBatch& batch, const LinearWeight& weight) {
                    backend_->gate_up(batch, norm, weight, hidden_->data(), normed_->data(), wide_->data());
                });
        }
    }

    void head(int32_t rows) {
        const LinearSpec spec{"lm_head",         Component::Weights,  model_.vocab_size,
                              model_.hidden_dim, model_.quantization, false};
        const NormWeight norm{static_cast<const float*>(norm_->data()), model_.rms_norm_eps};
        AllocationPtr logits = allocate(static_cast<size_t>(rows) * model_.vocab_size * sizeof(float));
        AllocationPtr rows_on_device = allocate(rows * sizeof(int32_t));
        std::vector<int32_t> indices(rows);
        for (int32_t i = 0; i < rows; ++i) indices[i] = i;
        backend_->upload(rows_on_device->data(), indices.data(), rows * sizeof(int32_t));
        linear_row("logits", Phase::Decode, rows, spec, [&](const StepBatch& batch, const LinearWeight& weight) {
            StepBatch wanted = batch;
            wanted.num_logits = wanted.num_rows;
            wanted.logits_rows = static_cast<const int32_t*>(rows_on_device->data());
            backend_->logits(wanted, norm, weight, hidden_->data(), normed_->data(),
                             static_cast<float*>(logits->data()));
        });
    }

    // One layer's attention of `rows` sequences at --context tokens each; layers are rotated.
    void decode_attention(int32_t rows) {
        const int32_t kv_len = options_.context;
        const int32_t pages = (kv_len + kPageTokens - 1) / kPageTokens;
        const int64_t elements =
            kv_layer_elements(static_cast<int64_t>(rows) * pages, model_.num_kv_heads, model_.head_dim);
        const uint64_t each = elements * dtype_size(model_.dtype);
        const int layers = static_cast<int>(std::clamp<uint64_t>(kRotatedBytes / each + 1, 1, model_.num_layers));
        AllocationPtr cache = allocate(each * layers);
        fill(cache.get());
        std::vector<int32_t> step;  // positions, slots, segment_starts, block_table
        for (int32_t i = 0; i < rows; ++i) step.push_back(kv_len - 1);
        for (int32_t i = 0; i < rows; ++i) step.push_back(i);
        for (int32_t i = 0; i <= rows; ++i) step.push_back(i);
        for (int32_t i = 0; i < rows * pages; ++i) step.push_back(i);
        AllocationPtr device = allocate(step.size() * sizeof(int32_t));
        backend_->upload(device->data(), step.data(), step.size() * sizeof(int32_t));
        const auto* at = static_cast<const int32_t*>(device->data());
        StepBatch batch;
        batch.num_rows = batch.num_segments = rows;
        batch.max_segment_rows = 1;
        batch.positions = at;
        batch.slots = at + rows;
        batch.segment_starts = at + 2 * rows;
        batch.block_table = at + 3 * rows + 1;
        batch.pages_per_seq = pages;
        batch.max_kv_len = backend_->round_up({Phase::Decode, rows, kv_len, true, false}, engine_).max_kv_len;
        const AttentionShape shape{model_.num_heads, model_.num_kv_heads, model_.head_dim, 0,
                                   1.0f / std::sqrt(static_cast<float>(model_.head_dim))};
        const double time = seconds(Phase::Decode, rows, [&](int i) {
            const KvLayer layer{static_cast<char*>(cache->data()) + each * (i % layers)};
            backend_->attention(batch, shape, wide_->data(), layer, normed_->data());
        });
        const double bytes = 2.0 * rows * kv_len * model_.kv_dim() * dtype_size(model_.dtype);
        row("attention", Phase::Decode, rows, kv_len, model_.kv_dim(), bytes, 4.0 * rows * kv_len * model_.q_dim(),
            time);
    }

    // Fills a block with the random activations, again and again.
    void fill(Allocation* block) {
        std::vector<char> bytes(hidden_->bytes());
        backend_->download(bytes.data(), hidden_->data(), bytes.size());
        for (size_t done = 0; done < block->bytes(); done += bytes.size())
            backend_->upload(static_cast<char*>(block->data()) + done, bytes.data(),
                             std::min(bytes.size(), block->bytes() - done));
    }

    const Options& options_;
    const Ceilings& ceilings_;
    Report& report_;
    const ModelConfig& model_;
    EngineConfig engine_;
    MemoryTracker tracker_;  // before everything that it tracks
    std::unique_ptr<Backend> backend_;
    AllocationPtr scratch_, hidden_, normed_, wide_, norm_;
    std::vector<AllocationPtr> weights_;
    int32_t run_id_ = 0;
};

}  // namespace

void measure_kernels(const Options& options, const Ceilings& ceilings, Report& report) {
    KernelBench(options, ceilings, report).run();
}

}  // namespace tinyllm::bench
