// Loading, prefill and decode of a whole model, end to end: through the engine, with sampling, as a user runs it.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <set>

#include "bench/cost.h"
#include "bench/measure.h"
#include "core/error.h"
#include "engine/batcher.h"
#include "testing/synthetic_model.h"

namespace tinyllm::bench {

namespace {

constexpr uint64_t kWeightSeed = 1;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Tokens that a sequence of the largest batch may generate: those of the measured steps, one to warm up, one that ends
// the request, and those that come while later prompts of the batch are still in prefill.
int32_t decode_tokens(const Options& options) {
    constexpr int64_t kSmallestChunk = 256;
    const int64_t chunk = options.max_step_tokens > 0 ? options.max_step_tokens : kSmallestChunk;
    const int64_t prompts = static_cast<int64_t>(largest(options.batches)) * options.context;
    return static_cast<int32_t>(options.generate + 2 + (prompts + chunk - 1) / chunk);
}

EngineConfig engine_config(const Options& options) {
    EngineConfig config;
    config.device_kind = options.device;
    config.device_index = options.device_index;
    const int32_t longest_decode = options.generate > 0 ? options.context + decode_tokens(options) : 0;
    config.kv_cache.max_batch_size = options.generate > 0 ? largest(options.batches) : 1;
    config.kv_cache.max_seq_len = std::max({largest(options.prompts), longest_decode, 1});
    config.max_step_tokens = options.max_step_tokens;
    config = checked(config);
    config.prefill_chunk = config.max_step_tokens;  // what is measured is whole steps of either kind
    return config;
}

GenerationParams greedy(int32_t max_new_tokens) {
    GenerationParams params;
    params.max_new_tokens = max_new_tokens;
    return params;
}

// Runs steps until `count` requests have produced a token; all are decoding then.
void prefill_all(Batcher& batcher, size_t count) {
    std::set<uint64_t> begun;
    while (begun.size() < count) {
        std::vector<Event> events;
        batcher.step(events);
        for (const Event& event : events) begun.insert(event.request_id);
    }
}

void finish_all(Batcher& batcher, const std::vector<uint64_t>& ids) {
    batcher.cancel(ids);
    std::vector<Event> events;
    do {
        events.clear();
    } while (batcher.step(events));
}

void measure_prefill(Batcher& batcher, int32_t length, const Options& options, const Ceilings& ceilings,
                     Report& report) {
    const DecoderSpec& model = batcher.runner().model_spec();
    std::vector<double> seconds;
    for (int32_t i = -1; i < options.repeat; ++i) {  // the first one warms up
        const std::vector<int32_t> prompt = testing::random_tokens(length, model.vocab_size, i + 2);
        const auto start = Clock::now();
        const uint64_t id = batcher.submit(prompt, greedy(1), nullptr);
        prefill_all(batcher, 1);
        if (i >= 0) seconds.push_back(seconds_since(start));
        finish_all(batcher, {id});
    }
    const Sample time = summarize(seconds);
    const double rate = length / time.median, flops = prefill_flops(model, length) / time.median;
    // Weights once, however many chunks there are; keys and values once each.
    const auto bytes = static_cast<double>(weight_bytes(model, options.device) + stored_kv_bytes(model, length));
    const double bandwidth = bytes / time.median;
    std::printf("prefill %6d tokens        %10.0f tok/s  TTFT %9.3f ms (%.3f to %.3f)  %7.1f TFLOP/s%s; %.1f GB/s\n",
                length, rate, time.median * 1e3, time.low * 1e3, time.high * 1e3, flops * 1e-12,
                share(flops, ceilings.matrix_rate, "matrix rate").c_str(), bandwidth * 1e-9);
    report.add("prefill", Record()
                              .add("tokens", length)
                              .add("tok_per_s", rate)
                              .add("ttft_ms", Sample{time.median * 1e3, time.low * 1e3, time.high * 1e3})
                              .add("tflops", flops * 1e-12)
                              .add("share_of_matrix_rate", flops / ceilings.matrix_rate)
                              .add("effective_gbps", bandwidth * 1e-9)
                              .add("share_of_read_bandwidth", bandwidth / ceilings.read_bandwidth));
}

void measure_decode(Batcher& batcher, int32_t batch, const Options& options, const Ceilings& ceilings, Report& report) {
    const DecoderSpec& model = batcher.runner().model_spec();
    std::vector<double> step_seconds;
    for (int32_t i = 0; i < options.repeat; ++i) {
        std::vector<uint64_t> ids;
        for (int32_t b = 0; b < batch; ++b)
            ids.push_back(batcher.submit(testing::random_tokens(options.context, model.vocab_size, 1000 * i + b),
                                         greedy(decode_tokens(options)), nullptr));
        prefill_all(batcher, ids.size());
        std::vector<Event> events;
        batcher.step(events);  // captures, where this batch runs for the first time
        const auto start = Clock::now();
        for (int32_t step = 0; step < options.generate; ++step) {
            events.clear();
            batcher.step(events);
            TL_CHECK(events.size() == ids.size());
        }
        step_seconds.push_back(seconds_since(start) / options.generate);
        finish_all(batcher, ids);
    }
    const Sample time = summarize(step_seconds);
    const double rate = batch / time.median;
    const int64_t mean_kv_len = options.context + 1 + options.generate / 2;
    const double bytes = static_cast<double>(weight_bytes(model, options.device)) +
                         static_cast<double>(batch) * static_cast<double>(kv_bytes(model, mean_kv_len));
    const double bandwidth = bytes / time.median, flops = decode_flops(model, batch, mean_kv_len) / time.median;
    std::printf(
        "decode  batch %3d, %6d + %d  %7.1f tok/s  TPOT %9.3f ms (%.3f to %.3f)  %7.1f GB/s%s; %.1f TFLOP/s%s\n", batch,
        options.context, options.generate, rate, time.median * 1e3, time.low * 1e3, time.high * 1e3, bandwidth * 1e-9,
        share(bandwidth, ceilings.read_bandwidth, "read bandwidth").c_str(), flops * 1e-12,
        share(flops, ceilings.matrix_rate, "matrix rate").c_str());
    report.add("decode", Record()
                             .add("batch", batch)
                             .add("context", options.context)
                             .add("generate", options.generate)
                             .add("tok_per_s", rate)
                             .add("tpot_ms", Sample{time.median * 1e3, time.low * 1e3, time.high * 1e3})
                             .add("bytes_per_step", bytes)
                             .add("effective_gbps", bandwidth * 1e-9)
                             .add("share_of_read_bandwidth", bandwidth / ceilings.read_bandwidth)
                             .add("tflops", flops * 1e-12)
                             .add("share_of_matrix_rate", flops / ceilings.matrix_rate));
}

// Most memory that this process has had in use at a time, in bytes.
double peak_host_bytes() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_maxrss) * 1024;
}

void measure_load(Batcher& batcher, Report& report) {
    const testing::LoadResult load = testing::load_synthetic(batcher.runner());
    const double rate = static_cast<double>(load.bytes) / load.seconds, peak = peak_host_bytes();
    std::printf(
        "load    %.2f GB of float16 tensors in %.2f s, %.2f GB/s; peak host memory %.0f MB, %.0f MB of it the "
        "tensors\n",
        static_cast<double>(load.bytes) * 1e-9, load.seconds, rate * 1e-9, peak / 1048576.0,
        static_cast<double>(load.block_bytes) / 1048576.0);
    report.add("load", Record()
                           .add("bytes", static_cast<double>(load.bytes))
                           .add("seconds", load.seconds)
                           .add("gbps", rate * 1e-9)
                           .add("peak_host_bytes", peak)
                           .add("tensor_bytes", static_cast<double>(load.block_bytes)));
}

}  // namespace

void measure_speed(const Options& options, const Ceilings& ceilings, Report& report) {
    const auto start = Clock::now();
    Batcher batcher(options.model, engine_config(options));
    if (options.load) {
        measure_load(batcher, report);
    } else {
        batcher.runner().fill_random(kWeightSeed);
        const double seconds = seconds_since(start);
        std::printf("start   %.2f s: memory taken, weights made up in it\n", seconds);
        report.add("start", Record().add("seconds", seconds));
    }
    for (const int32_t length : options.prompts) measure_prefill(batcher, length, options, ceilings, report);
    if (options.generate > 0)
        for (const int32_t batch : options.batches) measure_decode(batcher, batch, options, ceilings, report);
    const uint64_t peak = batcher.runner().tracker().total().peak_bytes;
    std::printf("memory  peak %.1f MB (planned %.1f MB)\n", peak / 1048576.0,
                batcher.runner().plan().total() / 1048576.0);
    report.add("memory", Record()
                             .add("peak_bytes", static_cast<double>(peak))
                             .add("planned_bytes", static_cast<double>(batcher.runner().plan().total())));
}

}  // namespace tinyllm::bench
