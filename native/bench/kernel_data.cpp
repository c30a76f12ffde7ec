#include "bench/kernel_data.h"

#include <algorithm>
#include <numeric>

#include "backends/registry.h"
#include "ops/kv_cache.h"
#include "testing/synthetic_model.h"

namespace tinyllm::bench {

namespace {

// More than the caches of any machine we know (H200: 60 MB of L2, server CPUs: up to 480 MB of L3 shared by many). Of
// data of less than 256 KB there are fewer bytes, but more than a GPU's L2 from 32 KB on.
constexpr uint64_t kRotatedBytes = 512ull << 20;

size_t copies_of(uint64_t bytes) { return std::clamp<uint64_t>(kRotatedBytes / bytes + 1, 2, KernelData::kMaxCopies); }

// `count` random values in [-1, 1); a few thousand serve, again and again.
template <typename T>
std::vector<T> random_values(int64_t count, uint64_t seed) {
    const std::vector<int32_t> random = testing::random_tokens(4096, 1 << 20, seed);
    std::vector<T> values(count);
    for (int64_t i = 0; i < count; ++i)
        values[i] = from_float<T>(static_cast<float>(random[i % random.size()]) * 0x1p-19f - 1.0f);
    return values;
}

}  // namespace

KernelData::KernelData(const Options& options)
    : options_(options),
      model_(make_decoder_spec(options.model)),
      max_rows_(std::max(largest(options.batches), largest(options.prompts))),
      backend_(make_backend(options.device, options.device_index)) {
    EngineConfig engine;
    engine.device_kind = options.device;
    engine.device_index = options.device_index;
    engine.kv_cache = {largest(options.batches), options.context, 0};
    engine_ = checked(engine);
    const int64_t bytes = scratch_bytes(options.device, model_shapes(model_), engine_.kv_cache);
    scratch_ = allocate(bytes);
    backend_->bind_scratch(scratch_->data(), bytes);
}

AllocationPtr KernelData::allocate(size_t bytes) {
    return backend_->allocate(tracker_, Component::Workspace, bytes, "bench");
}

AllocationPtr KernelData::activations(int64_t width) {
    const int64_t count = max_rows_ * width;
    if (model_.dtype == DType::F16) return uploaded(random_values<f16>(count, width));
    if (model_.dtype == DType::BF16) return uploaded(random_values<bf16>(count, width));
    return uploaded(random_values<float>(count, width));
}

Rotation KernelData::logits(int32_t rows) {
    const std::vector<float> values = random_values<float>(int64_t{rows} * model_.vocab_size, rows);
    Rotation result;
    result.copies = copies_of(values.size() * sizeof(float));
    for (size_t i = 0; i < result.copies; ++i) result.memory.push_back(uploaded(values));
    return result;
}

RotatedWeight KernelData::weight(const MatrixSpec& spec) {
    const LinearLayout layout = spec.layout(options_.device);
    RotatedWeight result;
    result.copies = copies_of(layout.weight_bytes() + layout.scale_bytes());
    for (size_t i = 0; i < result.copies; ++i) {
        LinearWeight weight{.n = spec.n,
                            .k = spec.k,
                            .quantization = spec.quantization,
                            .group_length = spec.group_length,
                            .dtype = spec.dtype,
                            .hints = spec.hints};
        result.memory.push_back(allocate(layout.weight_bytes()));
        weight.data = result.memory.back()->data();
        if (layout.groups > 0) {
            result.memory.push_back(allocate(layout.scale_bytes()));
            weight.scales = result.memory.back()->data();
        }
        backend_->fill_random(weight, i);
        result.weights.push_back(weight);
    }
    backend_->synchronize();  // decode kernels read weights before they wait for the kernel before them
    return result;
}

RotatedCache KernelData::cache(int64_t num_pages, size_t most_copies) {
    const AttentionShape& shape = model_.layers.front().attention().shape;
    const int64_t elements = kv_layer_elements(num_pages, shape.num_kv_heads, shape.head_dim);
    const uint64_t bytes = elements * dtype_size(model_.dtype);
    const AllocationPtr random = activations(shape.kv_dim());
    std::vector<char> values(random->bytes());
    backend_->download(values.data(), random->data(), values.size());
    RotatedCache result;
    result.copies = std::min(copies_of(bytes), most_copies);
    for (size_t i = 0; i < result.copies; ++i) {
        result.memory.push_back(allocate(bytes));
        auto* layer = static_cast<char*>(result.memory.back()->data());
        for (uint64_t done = 0; done < bytes; done += values.size())
            backend_->upload(layer + done, values.data(), std::min<uint64_t>(values.size(), bytes - done));
        result.layers.push_back({layer});
    }
    return result;
}

KernelStep KernelData::decode_step(int32_t rows, int32_t kv_len) {
    std::vector<int32_t> slots(rows), starts(rows + 1);
    std::iota(slots.begin(), slots.end(), 0);
    std::iota(starts.begin(), starts.end(), 0);
    return step(Phase::Decode, std::vector<int32_t>(rows, kv_len - 1), slots, starts);
}

KernelStep KernelData::prefill_step(int32_t rows) {
    std::vector<int32_t> positions(rows);
    std::iota(positions.begin(), positions.end(), 0);
    return step(Phase::Prefill, positions, std::vector<int32_t>(rows, 0), {0, rows});
}

KernelStep KernelData::step(Phase phase, const std::vector<int32_t>& positions, const std::vector<int32_t>& slots,
                            const std::vector<int32_t>& segment_starts) {
    const auto rows = static_cast<int32_t>(positions.size());
    const int32_t kv_len = positions.back() + 1, pages = (kv_len + kPageTokens - 1) / kPageTokens;
    KernelStep result;
    result.num_pages = int64_t{slots.back() + 1} * pages;
    std::vector<int32_t> logits_rows(rows), block_table(result.num_pages);
    std::iota(logits_rows.begin(), logits_rows.end(), 0);
    std::iota(block_table.begin(), block_table.end(), 0);
    const std::vector<int32_t> token_ids = testing::random_tokens(rows, model_.vocab_size, rows);

    std::vector<int32_t> all;
    std::vector<size_t> offsets;
    const std::vector<int32_t>* const parts[] = {&positions,   &slots,       &segment_starts,
                                                 &logits_rows, &block_table, &token_ids};
    for (const std::vector<int32_t>* part : parts) {
        offsets.push_back(all.size());
        all.insert(all.end(), part->begin(), part->end());
    }
    result.memory = uploaded(all);
    const auto* at = static_cast<const int32_t*>(result.memory->data());
    StepBatch& batch = result.batch;
    batch.phase = phase;
    batch.dtype = model_.dtype;
    batch.num_rows = rows;
    batch.num_segments = static_cast<int32_t>(segment_starts.size()) - 1;
    batch.max_segment_rows = rows / batch.num_segments;
    batch.num_logits = phase == Phase::Decode ? rows : 0;
    batch.positions = batch.rope_lens = at + offsets[0];  // as if each row were the last of its sequence
    batch.slots = at + offsets[1];
    batch.segment_starts = at + offsets[2];
    batch.logits_rows = at + offsets[3];
    batch.block_table = at + offsets[4];
    batch.token_ids = at + offsets[5];
    batch.pages_per_seq = pages;
    batch.max_kv_len = kv_len;
    if (phase == Phase::Decode) batch.max_kv_len = backend_->round_up({phase, rows, kv_len}, engine_).max_kv_len;
    return result;
}

}  // namespace tinyllm::bench
