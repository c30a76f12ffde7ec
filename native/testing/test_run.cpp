#include "testing/test_run.h"

#include <algorithm>
#include <cstring>

#include "backends/registry.h"
#include "config/engine_config.h"
#include "core/error.h"
#include "quantization/layout.h"

namespace tinyllm::testing {

namespace {

// Large enough that a whole tile row written past the end is noticed; keeps the 256-byte alignment of device memory.
constexpr size_t kGuardBytes = 1024;
constexpr unsigned char kPoison = 0xFF;

KVCacheConfig kv_cache_for(const tl_test_batch& batch) {
    // Decode steps have at most max_batch_size rows.
    const bool decode = static_cast<Phase>(batch.phase) == Phase::Decode;
    return {std::max(batch.num_slots, decode ? batch.num_rows : 1),
            std::max(batch.max_kv_len, batch.pages_per_seq * kPageTokens), batch.num_pages};
}

// First row of each segment and, last, the number of rows. A padding row is a segment of its own.
std::vector<int32_t> segment_starts(const tl_test_batch& batch) {
    std::vector<int32_t> starts;
    for (int32_t r = 0; r < batch.num_rows; ++r) {
        const bool continues = r > 0 && batch.slots[r] >= 0 && batch.slots[r] == batch.slots[r - 1] &&
                               batch.positions[r] == batch.positions[r - 1] + 1;
        if (!continues) starts.push_back(r);
    }
    starts.push_back(batch.num_rows);
    return starts;
}

}  // namespace

TestRun::TestRun(const tl_test_target& target, const ModelShapes& shapes, const tl_test_batch& batch)
    : target_(target), dtype_(static_cast<DType>(target.dtype)) {
    const auto device = static_cast<DeviceKind>(target.device_kind);
    if (device == DeviceKind::Cuda && dtype_ == DType::F32)
        fail(TL_STATUS_CONFIG, "float32 activations run on the CPU only; use float16 or bfloat16 on a GPU");
    backend_ = make_backend(device, target.device_index);
    const size_t scratch = static_cast<size_t>(scratch_bytes(device, shapes, kv_cache_for(batch)));
    backend_->bind_scratch(poisoned(scratch, "scratch"), scratch);
    upload_batch(batch);
}

void* TestRun::poisoned(size_t bytes, const std::string& name) {
    const std::vector<unsigned char> poison(bytes + 2 * kGuardBytes, kPoison);
    buffers_.push_back({backend_->allocate(tracker_, Component::Workspace, poison.size(), name), name});
    void* base = buffers_.back().memory->data();
    backend_->upload(base, poison.data(), poison.size());
    return static_cast<char*>(base) + kGuardBytes;
}

void* TestRun::uploaded_bytes(const void* values, size_t bytes, const std::string& name) {
    void* target = poisoned(bytes, name);
    if (bytes > 0) backend_->upload(target, values, bytes);
    return target;
}

void* TestRun::uploaded_as_t(const float* values, int64_t count, const std::string& name) {
    void* target = nullptr;
    with_type(dtype_, [&](auto type) {
        using T = decltype(type);
        std::vector<T> rounded(count);
        std::transform(values, values + count, rounded.begin(), from_float<T>);
        target = uploaded(rounded.data(), count, name);
    });
    return target;
}

void TestRun::download_from_t(float* target, const void* source, int64_t rows, int64_t cols, int64_t row_stride) {
    if (rows == 0) return;
    with_type(dtype_, [&](auto type) {
        using T = decltype(type);
        std::vector<T> values((rows - 1) * row_stride + cols);
        backend_->download(values.data(), source, values.size() * sizeof(T));
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < cols; ++c) target[r * cols + c] = to_float(values[r * row_stride + c]);
    });
}

LinearWeight TestRun::empty_linear(int32_t n, int32_t k, const std::string& name) {
    LinearWeight weight;
    weight.n = n;
    weight.k = k;
    weight.quantization = static_cast<QuantizationType>(target_.quantization);
    weight.group_length = target_.group_size == 0 ? k : target_.group_size;
    weight.dtype = dtype_;
    const LinearLayout layout = linear_layout(backend_->kind(), weight.quantization, dtype_, n, k, weight.group_length);
    weight.data = poisoned(layout.weight_bytes(), name);
    if (layout.groups > 0) weight.scales = poisoned(layout.scale_bytes(), name + " scales");
    // Padding of a layout is zero because the engine clears the memory before the first tensor arrives.
    if (layout.n_padded != n || layout.k_padded != k) {
        backend_->fill_zero(weight.data, layout.weight_bytes());
        if (weight.scales != nullptr) backend_->fill_zero(weight.scales, layout.scale_bytes());
    }
    return weight;
}

int64_t TestRun::load_part(const LinearWeight& weight, const LinearPart& part, const LinearLoad& load) {
    const tl_test_tensor& tensor = part.tensor;
    return backend_->load_linear(tracker_, weight, part.rows,
                                 {static_cast<DType>(tensor.dtype), tensor.rows, tensor.cols, tensor.data}, load);
}

LinearWeight TestRun::linear(int32_t n, const std::vector<LinearPart>& parts, const std::string& name) {
    LinearWeight weight = empty_linear(n, parts.front().tensor.cols, name);
    std::vector<float> bias(n);
    bool has_bias = false;
    for (const LinearPart& part : parts) {
        const int64_t bad = load_part(weight, part);
        if (bad >= 0) fail(TL_STATUS_CHECKPOINT, "'", name, "' has a value at index ", bad, " that cannot be stored");
        if (part.tensor.bias == nullptr) continue;
        has_bias = true;
        for (int32_t r = 0; r < part.tensor.rows; ++r)
            bias[part.rows.start + r * part.rows.stride] = part.tensor.bias[r];
    }
    if (has_bias) weight.bias = uploaded(bias.data(), n, name + " bias");
    return weight;
}

NormWeight TestRun::norm(const tl_test_norm& norm, int32_t features, const std::string& name) {
    return {norm.weight == nullptr ? nullptr : uploaded(norm.weight, features, name), norm.eps};
}

RopeParams TestRun::rope(const tl_test_rope& rope) {
    return {uploaded(rope.inv_freq, rope.rotary_dim / 2, "inv_freq"),
            rope.rotary_dim,
            rope.attention_factor,
            rope.dynamic != 0,
            rope.theta,
            rope.factor,
            rope.original_max_seq_len};
}

void TestRun::upload_batch(const tl_test_batch& batch) {
    const std::vector<int32_t> starts = segment_starts(batch);
    batch_.phase = static_cast<Phase>(batch.phase);
    batch_.dtype = dtype_;
    batch_.dtype = dtype_;
    batch_.num_rows = batch.num_rows;
    batch_.num_segments = static_cast<int32_t>(starts.size()) - 1;
    for (int32_t s = 0; s < batch_.num_segments; ++s)
        batch_.max_segment_rows = std::max(batch_.max_segment_rows, starts[s + 1] - starts[s]);
    batch_.max_kv_len = batch.max_kv_len;
    batch_.token_ids = uploaded(batch.token_ids, batch.num_rows, "token_ids");
    batch_.positions = uploaded(batch.positions, batch.num_rows, "positions");
    batch_.slots = uploaded(batch.slots, batch.num_rows, "slots");
    batch_.rope_lens = uploaded(batch.rope_lens, batch.num_rows, "rope_lens");
    batch_.segment_starts = uploaded(starts.data(), static_cast<int64_t>(starts.size()), "segment_starts");
    batch_.block_table =
        uploaded(batch.block_table, static_cast<int64_t>(batch.num_slots) * batch.pages_per_seq, "block_table");
    batch_.pages_per_seq = batch.pages_per_seq;
}

void TestRun::set_logits_rows(const int32_t* rows, int32_t count) {
    batch_.num_logits = count;
    batch_.logits_rows = uploaded(rows, count, "logits_rows");
}

void TestRun::set_sample_params(const SampleParams* params, bool greedy) {
    batch_.sample_params = uploaded(params, batch_.num_logits, "sample_params");
    batch_.greedy = greedy;
}

void TestRun::finish() {
    backend_->synchronize();
    std::vector<unsigned char> bytes;
    for (const auto& [memory, name] : buffers_) {
        bytes.resize(memory->bytes());
        backend_->download(bytes.data(), memory->data(), bytes.size());
        const auto intact = [](auto begin, auto end) {
            return std::all_of(begin, end, [](unsigned char byte) { return byte == kPoison; });
        };
        if (!intact(bytes.begin(), bytes.begin() + kGuardBytes))
            fail(TL_STATUS_INTERNAL, "the op wrote in front of '", name, "'");
        if (!intact(bytes.end() - kGuardBytes, bytes.end()))
            fail(TL_STATUS_INTERNAL, "the op wrote behind the end of '", name, "'");
    }
}

}  // namespace tinyllm::testing
