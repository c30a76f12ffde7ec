// Every operation of a model by itself: one row per operation, phase and row count. What an operation reads from memory
// in a real step is rotated over copies that exceed the last-level cache.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <iterator>

#include "bench/kernel_data.h"
#include "bench/measure.h"
#include "core/error.h"
#include "ops/rope.h"
#include "quantization/layout.h"

namespace tinyllm::bench {

namespace {

constexpr size_t kLeastCalls = 32;  // of one measurement

// What one call moves and computes at the least.
struct Cost {
    double bytes;
    double flops;
};

double bytes_of(const LinearLayout& layout) {
    return static_cast<double>(layout.weight_bytes() + layout.scale_bytes());
}

class KernelBench {
public:
    KernelBench(const Options& options, const Ceilings& ceilings, Report& report)
        : options_(options),
          ceilings_(ceilings),
          report_(report),
          data_(options),
          model_(data_.model()),
          layer_(model_.layers.front()),
          backend_(data_.backend()),
          shape_(layer_.attention().shape),
          hidden_(data_.activations(std::max(model_.hidden_dim, layer_.mlp().dim))),
          normed_(data_.activations(std::max(model_.hidden_dim, shape_.q_dim()))),
          wide_(data_.activations(std::max(shape_.qkv_dim(), layer_.mlp().dim))),
          ones_(data_.uploaded(std::vector<float>(std::max(model_.hidden_dim, shape_.head_dim), 1.0f))),
          norm_{static_cast<const float*>(ones_->data()), model_.norm_eps},
          inv_freq_(data_.uploaded(rope_inv_freq(model_.rope))),
          rope_(rope_params(model_.rope, static_cast<const float*>(inv_freq_->data()))),
          cos_sin_(data_.allocate(sizeof(float) * data_.max_rows() * model_.rope.rotary_dim)) {}

    void run() {
        std::printf("%-13s %-8s %6s %8s %8s %10s %21s %9s %9s", "op", "phase", "rows", "n", "k", "us", "(spread)",
                    "GB/s", "TFLOP/s");
        if (has_ceilings()) std::printf(" %7s %7s", "%read", "%matrix");
        std::printf("\n");
        std::vector<KernelStep> steps;
        for (const int32_t rows : options_.batches) steps.push_back(data_.decode_step(rows, options_.context));
        for (const int32_t rows : options_.prompts) steps.push_back(data_.prefill_step(rows));
        embed(steps);
        for (const KernelStep& step : steps) first_layer(step);
        for (const KernelStep& step : steps)
            if (step.batch.num_logits > 0) ends(step);
    }

private:
    // The operations of the first layer, and the table that all layers use.
    void first_layer(const KernelStep& step) {
        const int32_t rotary_dim = model_.rope.rotary_dim;
        row("rope_table", step, rotary_dim, 1, 1, {4.0 * step.batch.num_rows * rotary_dim, 0},
            [&](size_t) { backend_.rope_table(step.batch, rope_, static_cast<float*>(cos_sin_->data())); });
        for (const MatrixSpec& matrix : layer_.matrices) operations_of(matrix, step);
    }

    // The operations that a matrix is part of.
    void operations_of(const MatrixSpec& matrix, const KernelStep& step) {
        const auto residual = [&](const LinearWeight& weight) {
            backend_.linear_residual(step.batch, weight, wide_->data(), hidden_->data());
        };
        switch (matrix.role) {
            case MatrixRole::Qkv:
                qkv(step, matrix);
                return qkv_attention(step, matrix);
            case MatrixRole::AttentionOutput:
                attention(step);
                return linear("o_proj", step, matrix, residual);
            case MatrixRole::GateUp:
                return linear("gate_up", step, matrix, [&](const LinearWeight& weight) {
                    backend_.gate_up(step.batch, norm_, weight, hidden_->data(), normed_->data(), wide_->data());
                });
            case MatrixRole::Down:
                return linear("down_proj", step, matrix, residual);
            case MatrixRole::Embedding:
            case MatrixRole::Head:
                break;
        }
    }

    // The operations after the last layer.
    void ends(const KernelStep& step) {
        const int64_t elements = int64_t{step.batch.num_rows} * model_.vocab_size;
        {
            const AllocationPtr logits = data_.allocate(elements * sizeof(float));
            linear("logits", step, model_.output(), [&](const LinearWeight& weight) {
                backend_.logits(step.batch, norm_, weight, hidden_->data(), normed_->data(),
                                static_cast<float*>(logits->data()));
            });
        }
        const Rotation logits = data_.logits(step.batch.num_rows);
        const AllocationPtr sampled = data_.allocate(step.batch.num_rows * sizeof(SampledToken));
        StepBatch batch = step.batch;
        const auto sample = [&](size_t i) {
            backend_.sample(batch, model_.vocab_size, nullptr, static_cast<float*>(logits.memory[i]->data()),
                            static_cast<SampledToken*>(sampled->data()));
        };
        const Cost cost{4.0 * static_cast<double>(elements), 0};
        SampleParams params{};
        params.top_p = params.repetition_penalty = 1;
        for (const bool greedy : {true, false}) {
            if (!greedy) {
                params.temperature = 1;
                params.top_k = 40;
                params.top_p = 0.9f;
            }
            const AllocationPtr all = data_.uploaded(std::vector<SampleParams>(step.batch.num_rows, params));
            batch.sample_params = static_cast<const SampleParams*>(all->data());
            batch.greedy = greedy;
            row(greedy ? "sample_greedy" : "sample_top_kp", step, model_.vocab_size, 1, logits.copies, cost, sample);
        }
    }

    void embed(const std::vector<KernelStep>& steps) {
        const MatrixSpec& spec = model_.embedding;
        const RotatedWeight table = data_.weight(spec);
        const double row_bytes = bytes_of(spec.layout(options_.device)) / spec.n;
        for (const KernelStep& step : steps)
            row("embed", step, spec.n, spec.k, table.copies, {step.batch.num_rows * row_bytes, 0},
                [&](size_t i) { backend_.embed(step.batch, table.weights[i], nullptr, hidden_->data()); });
    }

    QkvWeights qkv_weights() const {
        QkvWeights weights;
        weights.input_norm = norm_;
        if (layer_.attention().qk_norm) weights.q_norm = weights.k_norm = norm_;
        return weights;
    }

    void qkv(const KernelStep& step, const MatrixSpec& spec) {
        const RotatedCache cache = data_.cache(step.num_pages, 1);
        QkvWeights weights = qkv_weights();
        linear("qkv", step, spec, [&](const LinearWeight& weight) {
            weights.qkv = weight;
            backend_.qkv(step.batch, weights, shape_, rope_, static_cast<const float*>(cos_sin_->data()),
                         hidden_->data(), normed_->data(), wide_->data(), cache.layers.front());
        });
    }

    int64_t positions_of(const KernelStep& step) const {
        return step.batch.phase == Phase::Decode ? options_.context : step.batch.num_rows;
    }

    Cost attention_cost(const KernelStep& step) const {
        // Positions that the rows see, and those of them that differ.
        const bool decode = step.batch.phase == Phase::Decode;
        const double rows = step.batch.num_rows, kv_len = static_cast<double>(positions_of(step));
        const double window = shape_.window > 0 ? std::min<double>(shape_.window, kv_len) : kv_len;
        const double seen = decode ? rows * window : window * rows - window * (window - 1) / 2;
        const double distinct = decode ? seen : kv_len;
        return {2.0 * distinct * shape_.kv_dim() * static_cast<double>(dtype_size(model_.dtype)),
                4.0 * seen * shape_.q_dim()};
    }

    void attention(const KernelStep& step) {
        const RotatedCache cache = data_.cache(step.num_pages, KernelData::kMaxCopies);
        row("attention", step, positions_of(step), shape_.kv_dim(), cache.copies, attention_cost(step),
            [&](size_t i) { backend_.attention(step.batch, shape_, wide_->data(), cache.layers[i], normed_->data()); });
    }

    // Both at once, as a step does it.
    void qkv_attention(const KernelStep& step, const MatrixSpec& spec) {
        const RotatedWeight weight = data_.weight(spec);
        const RotatedCache cache = data_.cache(step.num_pages, KernelData::kMaxCopies);
        const Cost matrix = linear_cost(step, spec), attention = attention_cost(step);
        QkvWeights weights = qkv_weights();
        row("qkv_attention", step, spec.n, spec.k, weight.copies,
            {matrix.bytes + attention.bytes, matrix.flops + attention.flops}, [&](size_t i) {
                weights.qkv = weight.weights[i];
                backend_.qkv_attention(step.batch, weights, shape_, rope_, static_cast<const float*>(cos_sin_->data()),
                                       hidden_->data(), normed_->data(), wide_->data(), cache.layers[i % cache.copies],
                                       normed_->data());
            });
    }

    Cost linear_cost(const KernelStep& step, const MatrixSpec& spec) const {
        return {bytes_of(spec.layout(options_.device)), 2.0 * step.batch.num_rows * spec.n * spec.k};
    }

    void linear(const std::string& op, const KernelStep& step, const MatrixSpec& spec,
                const std::function<void(const LinearWeight&)>& call) {
        const RotatedWeight weight = data_.weight(spec);
        row(op, step, spec.n, spec.k, weight.copies, linear_cost(step, spec),
            [&](size_t i) { call(weight.weights[i]); });
    }

    bool has_ceilings() const { return !std::isnan(ceilings_.read_bandwidth); }

    // Measures and prints one row; `call(i)` runs the operation on the i-th of `copies` copies.
    void row(const std::string& op, const KernelStep& step, int64_t n, int64_t k, size_t copies, const Cost& cost,
             const std::function<void(size_t)>& call) {
        const char* phase = step.batch.phase == Phase::Decode ? "decode" : "prefill";
        const Sample time = seconds(copies, call);
        const double bandwidth = cost.bytes / time.median, rate = cost.flops / time.median;
        std::printf("%-13s %-8s %6d %8lld %8lld %10.2f %21s %9.1f %9.2f", op.c_str(), phase, step.batch.num_rows,
                    static_cast<long long>(n), static_cast<long long>(k), time.median * 1e6,
                    format("(%.2f to %.2f)", time.low * 1e6, time.high * 1e6).c_str(), bandwidth * 1e-9, rate * 1e-12);
        if (has_ceilings())
            std::printf(" %6.0f%% %6.0f%%", 100 * bandwidth / ceilings_.read_bandwidth,
                        100 * rate / ceilings_.matrix_rate);
        std::printf("\n");
        report_.add("kernel", Record()
                                  .add("op", op)
                                  .add("phase", std::string(phase))
                                  .add("rows", step.batch.num_rows)
                                  .add("n", static_cast<double>(n))
                                  .add("k", static_cast<double>(k))
                                  .add("us", Sample{time.median * 1e6, time.low * 1e6, time.high * 1e6})
                                  .add("gbps", bandwidth * 1e-9)
                                  .add("tflops", rate * 1e-12)
                                  .add("share_of_read_bandwidth", bandwidth / ceilings_.read_bandwidth)
                                  .add("share_of_matrix_rate", rate / ceilings_.matrix_rate));
    }

    // Seconds of one call.
    Sample seconds(size_t copies, const std::function<void(size_t)>& call) {
        // A GPU repeats what was captured, so that has to pass through all copies; a CPU goes on where it stopped.
        const size_t calls = options_.device == DeviceKind::Cuda ? std::max(kLeastCalls, copies) : kLeastCalls;
        size_t next = 0;
        const auto body = [&] {
            for (size_t i = 0; i < calls; ++i) call(next++ % copies);
        };
        // A key of its own, so that no other captured step is replayed in its place.
        const StepKey key{Phase::Decode, ++run_id_, 0, false, false};
        const auto run = [&] {
            const auto start = std::chrono::steady_clock::now();
            backend_.run_step(key, body);
            backend_.synchronize();
            return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
                   static_cast<double>(calls);
        };
        // The first run loads the kernels, the second one captures.
        for (int i = 0; i < (options_.device == DeviceKind::Cuda ? 2 : 1); ++i) run();
        std::vector<double> samples;
        for (int32_t i = 0; i < options_.repeat; ++i) samples.push_back(run());
        return summarize(samples);
    }

    const Options& options_;
    const Ceilings& ceilings_;
    Report& report_;
    KernelData data_;
    const DecoderSpec& model_;
    const LayerSpec& layer_;
    Backend& backend_;
    const AttentionShape& shape_;
    const AllocationPtr hidden_, normed_, wide_, ones_;
    const NormWeight norm_;
    const AllocationPtr inv_freq_;
    const RopeParams rope_;
    const AllocationPtr cos_sin_;
    int32_t run_id_ = 0;
};

}  // namespace

void measure_kernels(const Options& options, const Ceilings& ceilings, Report& report) {
    KernelBench(options, ceilings, report).run();
}

}  // namespace tinyllm::bench
