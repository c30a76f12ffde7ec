#include "planning/plan.h"

#include <algorithm>

#include "backends/registry.h"
#include "config/model_config.h"
#include "core/error.h"
#include "model/decoder_spec.h"
#include "ops/kv_cache.h"
#include "ops/step_buffers.h"
#include "ops/step_shape.h"
#include "planning/overhead.h"

namespace tinyllm {

namespace {

void add(MemoryPlan& plan, Component component, std::string name, DType dtype, std::vector<int64_t> shape) {
    // Only a KV cache can be too big to count; it then fits nowhere.
    constexpr uint64_t kTooBig = uint64_t{1} << 62;
    uint64_t bytes = dtype_size(dtype);
    for (int64_t dim : shape)
        if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dim), &bytes) || bytes > kTooBig) bytes = kTooBig;
    plan.entries.push_back({component, std::move(name), dtype, std::move(shape), bytes});
}

void add_matrix(MemoryPlan& plan, const MatrixSpec& spec, DeviceKind device) {
    const LinearLayout layout = spec.layout(device);
    const bool quantized = spec.quantization == QuantizationType::W8A16;
    add(plan, spec.component(), spec.name + ".weight", quantized ? DType::I8 : spec.dtype,
        {layout.n_padded, layout.k_padded});
    if (quantized) add(plan, Component::Scales, spec.name + ".scales", DType::F16, {layout.n_padded, layout.groups});
    if (spec.bias) add(plan, Component::Norms, spec.name + ".bias", DType::F32, {spec.n});
}

void add_weights(MemoryPlan& plan, const DecoderSpec& spec, DeviceKind device) {
    for (const MatrixSpec* matrix : spec.matrices()) add_matrix(plan, *matrix, device);
    for (const VectorSpec* vector : spec.vectors())
        add(plan, Component::Norms, vector->name, DType::F32, {vector->size});
}

// One layer behind the other; the pages of all have one size.
void add_kv_cache(MemoryPlan& plan, const DecoderSpec& spec, int64_t num_pages) {
    const AttentionShape& shape = spec.layers.front().attention().shape;
    add(plan, Component::KvCache, "kv_cache", spec.dtype,
        {static_cast<int64_t>(spec.layers.size()), kv_layer_elements(num_pages, shape.num_kv_heads, shape.head_dim)});
}

void add_activations(MemoryPlan& plan, const DecoderSpec& spec, const StepShape& shape) {
    int32_t q_dim = 0, widest = 0;
    for (const LayerSpec& layer : spec.layers) {
        const AttentionShape& attention = layer.attention().shape;
        q_dim = std::max(q_dim, attention.q_dim());
        // q, k, v and the FFN intermediate are never alive together.
        widest = std::max({widest, attention.qkv_dim(), layer.mlp().dim});
    }
    const int64_t rows = shape.tile_rows;
    add(plan, Component::Activations, "hidden", spec.dtype, {shape.max_rows, spec.hidden_dim});
    // The normalised input is dead once q, k and v exist, so the attention output takes its place.
    add(plan, Component::Activations, "normed/attention", spec.dtype,
        {std::max<int64_t>(rows, shape.logits_rows), std::max(spec.hidden_dim, q_dim)});
    add(plan, Component::Activations, "qkv/ffn", spec.dtype, {rows, widest});
    add(plan, Component::Activations, "rope", DType::F32, {shape.max_rows, spec.rope.rotary_dim});
}

// The largest value from 1 to `limit` with which the engine fits, `set` into its KV cache; 0 if none does. Memory grows
// with it, so bisection finds it.
template <typename Set>
int32_t largest_fitting(const ModelConfig& model, EngineConfig& engine, uint64_t free_bytes, int32_t limit, Set set) {
    engine.kv_cache.num_pages = 0;
    const uint64_t budget = plan_budget(model, engine, free_bytes);
    int32_t low = 0, high = limit;
    while (low < high) {
        const int32_t middle = low + (high - low + 1) / 2;
        set(engine.kv_cache, middle);
        if (make_plan(model, engine).total() <= budget)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

std::string megabytes(uint64_t bytes) {
    std::ostringstream out;
    out.precision(1);
    out << std::fixed << static_cast<double>(bytes) / (1 << 20) << " MB";
    return out.str();
}

}  // namespace

MemoryPlan make_plan(const ModelConfig& model, const EngineConfig& engine) {
    if (engine.device_kind == DeviceKind::Cuda && model.dtype == DType::F32)
        fail(TL_STATUS_CONFIG, "dtype = float32: float32 activations run on the CPU only; use float16 or bfloat16");
    const KVCacheConfig& kv = engine.kv_cache;
    const StepShape shape = step_shape(model, engine);
    const DecoderSpec spec = make_decoder_spec(model);
    MemoryPlan plan;
    add_weights(plan, spec, engine.device_kind);
    add_kv_cache(plan, spec, kv.total_pages());
    add_activations(plan, spec, shape);
    add(plan, Component::Logits, "logits", DType::F32, {shape.logits_rows, spec.vocab_size});
    add(plan, Component::Workspace, "decode_step", DType::I8, {StepBuffers::bytes(decode_capacity(engine))});
    add(plan, Component::Workspace, "prefill_step", DType::I8, {StepBuffers::bytes(prefill_capacity(engine, shape))});
    add(plan, Component::Workspace, "block_table", DType::I32, {kv.max_batch_size, kv.pages_per_seq()});
    add(plan, Component::Workspace, "seen", DType::U32, {kv.max_batch_size, (spec.vocab_size + 31) / 32});
    add(plan, Component::Workspace, "sampled", DType::I8,
        {static_cast<int64_t>(kv.max_batch_size * sizeof(SampledToken))});
    add(plan, Component::Workspace, "scratch", DType::I8, {scratch_bytes(engine.device_kind, model_shapes(spec), kv)});
    return plan;
}

int32_t largest_seq_len(const ModelConfig& model, EngineConfig engine, uint64_t free_bytes, int32_t limit) {
    return kPageTokens *
           largest_fitting(model, engine, free_bytes, std::min(limit, kMaxSeqLen) / kPageTokens,
                           [](KVCacheConfig& kv, int32_t pages) { kv.max_seq_len = pages * kPageTokens; });
}

int32_t largest_batch(const ModelConfig& model, EngineConfig engine, uint64_t free_bytes, int32_t limit) {
    return largest_fitting(model, engine, free_bytes, std::min(limit, kMaxBatchSize),
                           [](KVCacheConfig& kv, int32_t batch) { kv.max_batch_size = batch; });
}

void require_fit(const MemoryPlan& plan, const ModelConfig& model, const EngineConfig& engine, uint64_t free_bytes) {
    const uint64_t budget = plan_budget(model, engine, free_bytes);
    if (plan.total() <= budget) return;
    std::string parts;
    for (int c = 0; c < kNumComponents; ++c) {
        const uint64_t bytes = plan.component_bytes(static_cast<Component>(c));
        if (bytes == 0) continue;
        parts += concat(parts.empty() ? "" : ", ", component_name(static_cast<Component>(c)), " ", megabytes(bytes));
    }
    const KVCacheConfig& kv = engine.kv_cache;
    std::string fitting;
    const auto offer = [&](int32_t seq_len, int32_t batch) {
        if (seq_len > 0 && batch > 0)
            fitting += concat(fitting.empty() ? "would fit: " : ", or ", seq_len, " tokens at batch ", batch);
    };
    EngineConfig single = engine;
    single.kv_cache.max_batch_size = 1;
    const int32_t batch = largest_batch(model, engine, free_bytes, kv.max_batch_size);
    offer(largest_seq_len(model, engine, free_bytes, kv.max_seq_len), kv.max_batch_size);
    offer(kv.max_seq_len, batch);
    if (fitting.empty()) offer(largest_seq_len(model, single, free_bytes, kv.max_seq_len), 1);
    if (fitting.empty()) fitting = "not even one page of context fits beside the weights";
    const std::string loading =
        budget == free_bytes ? "" : concat(", ", megabytes(free_bytes - budget), " of them for loading and rounding");
    fail(TL_STATUS_OUT_OF_MEMORY, "the model needs ", plan.total(), " bytes (", megabytes(plan.total()), ") but only ",
         free_bytes, " bytes (", megabytes(free_bytes), ") are free", loading, ": ", parts, "; context ",
         kv.max_seq_len, " tokens, batch ", kv.max_batch_size, "; ", fitting);
}

}  // namespace tinyllm
