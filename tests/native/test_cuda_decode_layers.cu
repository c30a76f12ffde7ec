// Ops::decode_layers against the ops that it stands for, bit for bit: both run on the same weights, cache and input.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/runtime/device_info.h"
#include "cuda_test.h"
#include "engine_cases.h"
#include "model/layout.h"
#include "ops/registry.h"

namespace tinyllm::test {

namespace {

struct Shape {
    int32_t hidden, intermediate, heads, kv_heads, head_dim;
    int32_t layers = 2;
    int32_t group_size = 128;
    QuantizationType quantization = QuantizationType::W8A16;
    DType dtype = DType::F16;
    bool bias = false, head_norms = false;
    int32_t window = 0;  // of every second layer
    int32_t rotary_dim = 0;  // 0: head_dim
};

// A step on made-up weights: row r has positions[r] tokens before it; -1 is a padding row.
class LayersRun {
public:
    LayersRun(const Shape& shape, const std::vector<int32_t>& positions)
        : shape_(shape), rows_(static_cast<int32_t>(positions.size())), backend_(make_cuda_backend(0)) {
        if (shape_.rotary_dim == 0) shape_.rotary_dim = shape_.head_dim;
        int32_t longest = 1;
        for (const int32_t position : positions) longest = std::max(longest, position + 1);
        ModelConfig model = small_model();
        model.hidden_dim = shape.hidden;
        model.intermediate_dim = shape.intermediate;
        model.num_heads = shape.heads;
        model.num_kv_heads = shape.kv_heads;
        model.head_dim = shape.head_dim;
        model.rotary_dim = shape_.rotary_dim;
        const EngineConfig engine = small_engine(rows_, longest + 1, 32, 0, DeviceKind::Cuda);
        const AllocationPtr& scratch = allocate(scratch_bytes(DeviceKind::Cuda, model, engine));
        backend_->bind_scratch(scratch->data(), scratch->bytes());
        make_batch(positions, longest);
        for (int32_t i = 0; i < shape.layers; ++i) make_layer(i);
        const int64_t qkv_dim = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
        buffers_.hidden = random(int64_t{rows_} * shape.hidden, 1.0f);
        buffers_.qkv = buffers_.ffn = unwritten(std::max<int64_t>(qkv_dim, shape.intermediate));
        buffers_.attention = normed_ = unwritten(std::max(shape.hidden, shape.heads * shape.head_dim));
        std::vector<float> angles(rows_ * shape_.rotary_dim);
        const int32_t half = shape_.rotary_dim / 2;
        for (size_t i = 0; i < angles.size(); ++i) {
            const double angle = static_cast<double>(i / shape_.rotary_dim * 7 + i % half) * 0.37;
            angles[i] = static_cast<float>(i / half % 2 == 0 ? std::cos(angle) : std::sin(angle));
        }
        buffers_.cos_sin = upload(angles);
        rope_.rotary_dim = shape_.rotary_dim;
    }

    bool in_one() { return backend_->decode_layers(batch_, layers_, rope_, buffers_); }

    void op_by_op(bool fused) {
        for (const DecodeLayer& layer : layers_) {
            const LayerWeights& w = *layer.weights;
            if (fused) {
                backend_->qkv_attention(batch_, w.qkv, layer.shape, rope_, buffers_.cos_sin, buffers_.hidden, normed_,
                                        buffers_.qkv, layer.kv, buffers_.attention);
            } else {
                backend_->qkv(batch_, w.qkv, layer.shape, rope_, buffers_.cos_sin, buffers_.hidden, normed_,
                              buffers_.qkv, layer.kv);
                backend_->attention(batch_, layer.shape, buffers_.qkv, layer.kv, buffers_.attention);
            }
            backend_->linear_residual(batch_, w.o_proj, buffers_.attention, buffers_.hidden);
            backend_->gate_up(batch_, w.post_attention_norm, w.gate_up, buffers_.hidden, normed_, buffers_.ffn);
            backend_->linear_residual(batch_, w.down_proj, buffers_.ffn, buffers_.hidden);
        }
    }

    // The hidden rows, then the caches.
    std::vector<std::vector<uint16_t>> result() {
        std::vector<std::vector<uint16_t>> all;
        all.push_back(download(buffers_.hidden, int64_t{rows_} * shape_.hidden));
        for (const DecodeLayer& layer : layers_) all.push_back(download(layer.kv.data, cache_elements_));
        return all;
    }

private:
    AllocationPtr& allocate(int64_t bytes) {
        memory_.push_back(backend_->allocate(tracker_, Component::Workspace, static_cast<size_t>(bytes), "test"));
        return memory_.back();
    }
    template <typename Element>
    Element* upload(const std::vector<Element>& values) {
        const AllocationPtr& block = allocate(static_cast<int64_t>(values.size() * sizeof(Element)));
        backend_->upload(block->data(), values.data(), block->bytes());
        return static_cast<Element*>(block->data());
    }
    std::vector<uint16_t> download(const void* source, int64_t elements) {
        std::vector<uint16_t> values(elements);
        backend_->download(values.data(), source, values.size() * 2);
        return values;
    }
    void* unwritten(int64_t elements_of_row) { return allocate(rows_ * elements_of_row * 2)->data(); }
    // Normally distributed elements of the activation type.
    void* random(int64_t elements, float deviation) {
        std::vector<uint16_t> values(elements);
        std::normal_distribution<float> normal(0, deviation);
        for (uint16_t& value : values) {
            const float x = normal(generator_);
            const __half half(x);
            const __nv_bfloat16 brain(x);
            std::memcpy(&value, shape_.dtype == DType::F16 ? static_cast<const void*>(&half) : &brain, 2);
        }
        return upload(values);
    }
    float* random_floats(int32_t size, float mean, float deviation) {
        std::vector<float> values(size);
        std::normal_distribution<float> normal(mean, deviation);
        for (float& value : values) value = normal(generator_);
        return upload(values);
    }

    void make_batch(const std::vector<int32_t>& positions, int32_t longest) {
        std::vector<int32_t> slots(rows_), table;
        const int32_t pages = (longest + kPageTokens - 1) / kPageTokens;
        for (int32_t row = 0; row < rows_; ++row) {
            slots[row] = positions[row] < 0 ? -1 : row;
            for (int32_t i = 0; i < pages; ++i) table.push_back((pages - 1 - i) * rows_ + row);
        }
        cache_elements_ = kv_layer_elements(int64_t{pages} * rows_, shape_.kv_heads, shape_.head_dim);
        batch_.phase = Phase::Decode;
        batch_.dtype = shape_.dtype;
        batch_.num_rows = batch_.num_segments = rows_;
        batch_.max_kv_len = longest;
        batch_.max_segment_rows = 1;
        std::vector<int32_t> valid = positions;
        for (int32_t& position : valid) position = std::max(position, 0);
        batch_.positions = upload(valid);
        batch_.slots = upload(slots);
        batch_.block_table = upload(table);
        batch_.pages_per_seq = pages;
    }

    LinearWeight matrix(int32_t n, int32_t k) {
        LinearWeight w;
        w.n = n;
        w.k = k;
        w.quantization = shape_.quantization;
        w.group_length = std::min(shape_.group_size, k);
        w.dtype = shape_.dtype;
        const LinearLayout layout = linear_layout(DeviceKind::Cuda, w.quantization, w.dtype, n, k, w.group_length);
        w.data = allocate(layout.weight_bytes())->data();
        if (layout.scale_bytes() > 0) w.scales = allocate(layout.scale_bytes())->data();
        backend_->fill_random(w, generator_());
        if (shape_.bias) w.bias = random_floats(n, 0, 0.1f);
        return w;
    }

    void make_layer(int32_t index) {
        const int32_t q_dim = shape_.heads * shape_.head_dim;
        auto weights = std::make_unique<LayerWeights>();
        weights->qkv.qkv = matrix(q_dim + 2 * shape_.kv_heads * shape_.head_dim, shape_.hidden);
        weights->qkv.input_norm = {random_floats(shape_.hidden, 1, 0.1f), 1e-5f};
        if (shape_.head_norms) {
            weights->qkv.q_norm = {random_floats(shape_.head_dim, 1, 0.1f), 1e-6f};
            weights->qkv.k_norm = {random_floats(shape_.head_dim, 1, 0.1f), 1e-6f};
        }
        weights->o_proj = matrix(shape_.hidden, q_dim);
        weights->post_attention_norm = {random_floats(shape_.hidden, 1, 0.1f), 1e-5f};
        weights->gate_up = matrix(2 * shape_.intermediate, shape_.hidden);
        weights->down_proj = matrix(shape_.hidden, shape_.intermediate);
        const AttentionShape attention{shape_.heads, shape_.kv_heads, shape_.head_dim, index % 2 ? shape_.window : 0,
                                       1.0f / std::sqrt(static_cast<float>(shape_.head_dim))};
        layers_.push_back({weights.get(), attention, {random(cache_elements_, 1.0f)}});
        weights_.push_back(std::move(weights));
    }

    Shape shape_;
    int32_t rows_;
    int64_t cache_elements_ = 0;
    MemoryTracker tracker_;
    std::unique_ptr<Backend> backend_;
    std::vector<AllocationPtr> memory_;
    std::mt19937 generator_{7};
    StepBatch batch_;
    RopeParams rope_;
    DecodeBuffers buffers_;
    void* normed_;
    std::vector<std::unique_ptr<LayerWeights>> weights_;
    std::vector<DecodeLayer> layers_;
};

void check_equal(const std::vector<std::vector<uint16_t>>& actual, const std::vector<std::vector<uint16_t>>& expected,
                 const char* way) {
    for (size_t i = 0; i < actual.size(); ++i) {
        int64_t differ = 0;
        for (size_t e = 0; e < actual[i].size(); ++e) differ += actual[i][e] != expected[i][e];
        check(differ == 0,
              std::string(way) + (i == 0 ? ": hidden" : ": cache of layer " + std::to_string(i - 1)) + ": " +
                  std::to_string(differ) + " of " + std::to_string(actual[i].size()) + " differ",
              __FILE__, __LINE__);
    }
    // The input passes through: a result of zeros would be equal too.
    bool any = false;
    for (const uint16_t bits : actual[0]) any |= (bits & 0x7fff) != 0;
    CHECK(any);
}

// Compares all ways on equal inputs; whether decode_layers takes the step is checked too.
void compare(const Shape& shape, const std::vector<int32_t>& positions, bool taken = true) {
    LayersRun separate(shape, positions), fused(shape, positions), one(shape, positions);
    separate.op_by_op(false);
    fused.op_by_op(true);
    const auto expected = separate.result();
    check_equal(fused.result(), expected, "qkv_attention");
    taken = taken && device_traits().programmatic_launch;
    CHECK(one.in_one() == taken);
    if (taken) check_equal(one.result(), expected, "decode_layers");
}

}  // namespace

TEST(one_row) {
    compare({512, 1024, 4, 4, 128}, {0});
    compare({512, 1024, 8, 2, 64}, {100});
    compare({576, 1536, 9, 3, 64}, {17});  // SmolLM2-135M: K that is no multiple of 128
}

TEST(rows_up_to_eight) {
    for (int32_t rows = 1; rows <= 8; ++rows) {
        std::vector<int32_t> positions;
        for (int32_t row = 0; row < rows; ++row) positions.push_back(37 * row + 5);
        compare({512, 768, 8, 2, 64}, positions);
        compare({512, 768, 4, 1, 128}, positions);
    }
}

TEST(padding_rows) {
    compare({512, 768, 8, 2, 64}, {40, -1, 12, -1});
    compare({512, 768, 8, 2, 64}, {-1});
}

TEST(pages_tiles_and_splits) {
    // Around the ends of tiles (16), pages (64), rounds of a block's warps (128) and splits (512).
    for (const int32_t position : {15, 16, 63, 64, 127, 128, 129, 255, 511, 512, 513, 1040, 2100}) {
        compare({256, 512, 4, 4, 64, 1}, {position});
        compare({256, 512, 4, 2, 128, 1}, {position, position / 2});
    }
}

TEST(sliding_windows) {
    for (const int32_t window : {1, 16, 100, 512})
        compare({.hidden = 256, .intermediate = 512, .heads = 4, .kv_heads = 2, .head_dim = 64, .window = window},
                {0, 99, 700});
}

TEST(groups_of_query_heads) {
    compare({512, 512, 9, 1, 64}, {50});   // two groups of one kv head, the second of one head
    compare({512, 512, 16, 1, 64}, {600, 3});
    compare({512, 512, 6, 2, 128}, {50});
}

TEST(layers_of_several_launches) {
    for (const int32_t layers : {1, 15, 16, 17, 33})
        compare({.hidden = 256, .intermediate = 512, .heads = 4, .kv_heads = 2, .head_dim = 64, .layers = layers},
                {30, 31});
}

TEST(kinds_of_weights) {
    for (const DType dtype : {DType::F16, DType::BF16})
        for (const int32_t group : {0, 32, 64, 128, 256}) {
            Shape shape{576, 1088, 6, 2, 128};
            shape.dtype = dtype;
            if (group == 0) shape.quantization = QuantizationType::NONE;
            shape.group_size = std::max(group, 32);
            compare(shape, {77});
            compare(shape, {77, 3, 200});
        }
}

TEST(head_dimensions) {
    for (const int32_t head_dim : {80, 96, 256, 72}) {
        Shape shape{512, 768, 6, 2, head_dim};
        shape.head_norms = head_dim == 80;
        compare(shape, {15, 600, 64, 130}, false);
    }
}

TEST(bias_norms_and_partial_rope) {
    Shape shape{512, 768, 8, 2, 64};
    shape.bias = shape.head_norms = true;
    shape.rotary_dim = 32;
    compare(shape, {140, 2});
}

TEST(many_tiles) {
    // More tiles than blocks, in numbers that leave some SMs with one less; K of many units.
    compare({2048, 5632, 32, 4, 64, 3}, {200});
    compare({4096, 4096, 32, 8, 128, 2}, {20, 21});
}

TEST(steps_for_other_kernels) {
    compare({512, 768, 8, 2, 64}, std::vector<int32_t>(9, 4), false);  // rows
    compare({480, 768, 5, 1, 96}, {4}, false);                         // head_dim
    compare({252, 768, 4, 2, 64}, {4}, false);                         // rows of x that are not aligned
    compare({512, 768, 64, 64, 64}, {1, 2, 3, 4, 5, 6, 7, 8}, false);  // parts of attention
}

}  // namespace tinyllm::test

CUDA_TEST_MAIN()
