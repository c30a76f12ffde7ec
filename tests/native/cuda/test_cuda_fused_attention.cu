// Ops::qkv_attention of a decode step against qkv() and attention(), bit for bit: both run on the same weights, cache
// and input.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/runtime/device_info.h"
#include "backends/registry.h"
#include "config/engine_config.h"
#include "cuda/cuda_test.h"
#include "ops/kv_cache.h"
#include "ops/model_shapes.h"
#include "quantization/layout.h"

namespace tinyllm::test {

using namespace cuda;

namespace {

struct Shape {
    int32_t hidden, heads, kv_heads, head_dim;
    DType dtype = DType::F16;
    bool bias = false, head_norms = false;
    int32_t window = 0;
    int32_t rotary_dim = 0;  // 0: head_dim
};

// A step on made-up weights: row r has positions[r] tokens before it; -1 is a padding row.
class AttentionRun {
public:
    AttentionRun(const Shape& shape, const std::vector<int32_t>& positions)
        : shape_(shape), rows_(static_cast<int32_t>(positions.size())), backend_(cuda::make_backend(0)) {
        if (shape_.rotary_dim == 0) shape_.rotary_dim = shape_.head_dim;
        int32_t longest = 1;
        for (const int32_t position : positions) longest = std::max(longest, position + 1);
        const AttentionShape attention{
            .num_heads = shape.heads, .num_kv_heads = shape.kv_heads, .head_dim = shape.head_dim};
        const ModelShapes shapes{{{attention.qkv_dim(), shape.hidden}}, {attention}, 0};
        const AllocationPtr& scratch = allocate(scratch_bytes(DeviceKind::Cuda, shapes, {rows_, longest + 1, 0}));
        backend_->bind_scratch(scratch->data(), scratch->bytes());
        make_batch(positions, longest);
        make_weights();
        cache_ = {random_cache(positions)};
        hidden_ = random(int64_t{rows_} * shape.hidden, 1.0f);
        qkv_ = unwritten((shape.heads + 2 * shape.kv_heads) * shape.head_dim);
        normed_ = unwritten(shape.hidden);
        out_ = unwritten(shape.heads * shape.head_dim);
        std::vector<float> angles(rows_ * shape_.rotary_dim);
        const int32_t half = shape_.rotary_dim / 2;
        for (size_t i = 0; i < angles.size(); ++i) {
            const double angle = static_cast<double>(i / shape_.rotary_dim * 7 + i % half) * 0.37;
            angles[i] = static_cast<float>(i / half % 2 == 0 ? std::cos(angle) : std::sin(angle));
        }
        cos_sin_ = upload(angles);
        rope_.rotary_dim = shape_.rotary_dim;
    }

    void run(bool fused) {
        if (fused)
            return backend_->qkv_attention(batch_, weights_, attention_, rope_, cos_sin_, hidden_, normed_, qkv_,
                                           cache_, out_);
        backend_->qkv(batch_, weights_, attention_, rope_, cos_sin_, hidden_, normed_, qkv_, cache_);
        backend_->attention(batch_, attention_, qkv_, cache_, out_);
    }

    std::vector<uint16_t> out() { return download(out_, int64_t{rows_} * shape_.heads * shape_.head_dim); }
    std::vector<uint16_t> cache() { return download(cache_.data, cache_elements_); }

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
    std::vector<uint16_t> random_values(int64_t elements, float deviation) {
        std::vector<uint16_t> values(elements);
        std::normal_distribution<float> normal(0, deviation);
        for (uint16_t& value : values) {
            const float x = normal(generator_);
            const __half half(x);
            const __nv_bfloat16 brain(x);
            std::memcpy(&value, shape_.dtype == DType::F16 ? static_cast<const void*>(&half) : &brain, 2);
        }
        return values;
    }
    void* random(int64_t elements, float deviation) { return upload(random_values(elements, deviation)); }
    // NaN in all positions that a row must not read before it has written them: from its own on, and behind the window.
    void* random_cache(const std::vector<int32_t>& positions) {
        std::vector<uint16_t> values = random_values(cache_elements_, 1.0f);
        for (int32_t row = 0; row < rows_; ++row) {
            for (int32_t position = 0; position < batch_.pages_per_seq * kPageTokens; ++position) {
                if (position < positions[row] && (shape_.window == 0 || position > positions[row] - shape_.window))
                    continue;
                for (int32_t tile = 0; tile < 2 * shape_.kv_heads; ++tile) {
                    const int64_t at = kv_tile_offset(page_of(row, position / kPageTokens, batch_.pages_per_seq),
                                                      tile / shape_.kv_heads, tile % shape_.kv_heads, shape_.kv_heads,
                                                      shape_.head_dim) +
                                       int64_t{position % kPageTokens} * shape_.head_dim;
                    std::fill_n(values.begin() + at, shape_.head_dim, uint16_t{0x7fff});  // NaN in either type
                }
            }
        }
        return upload(values);
    }
    // Pages of a row in descending order, among those of the others.
    int32_t page_of(int32_t row, int32_t index, int32_t pages) const { return (pages - 1 - index) * rows_ + row; }
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
            for (int32_t i = 0; i < pages; ++i) table.push_back(page_of(row, i, pages));
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

    void make_weights() {
        LinearWeight& w = weights_.qkv;
        w.n = (shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim;
        w.k = shape_.hidden;
        w.group_length = 128;
        w.dtype = shape_.dtype;
        const LinearLayout layout = linear_layout(DeviceKind::Cuda, w.quantization, w.dtype, w.n, w.k, w.group_length);
        w.data = allocate(layout.weight_bytes())->data();
        w.scales = allocate(layout.scale_bytes())->data();
        backend_->fill_random(w, 11);
        if (shape_.bias) w.bias = random_floats(w.n, 0, 0.1f);
        weights_.input_norm = {random_floats(shape_.hidden, 1, 0.1f), 1e-5f};
        if (shape_.head_norms) {
            weights_.q_norm = {random_floats(shape_.head_dim, 1, 0.1f), 1e-6f};
            weights_.k_norm = {random_floats(shape_.head_dim, 1, 0.1f), 1e-6f};
        }
        attention_ = {shape_.heads, shape_.kv_heads, shape_.head_dim, shape_.window,
                      1.0f / std::sqrt(static_cast<float>(shape_.head_dim))};
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
    QkvWeights weights_;
    AttentionShape attention_;
    KvLayer cache_;
    const float* cos_sin_ = nullptr;
    void *hidden_ = nullptr, *normed_ = nullptr, *qkv_ = nullptr, *out_ = nullptr;
};

void check_equal(const std::vector<uint16_t>& actual, const std::vector<uint16_t>& expected, const char* what) {
    int64_t differ = 0;
    bool any = false;  // zeros would be equal too
    for (size_t i = 0; i < actual.size(); ++i) {
        differ += actual[i] != expected[i];
        any |= (actual[i] & 0x7fff) != 0 && (actual[i] & 0x7fff) != 0x7fff;
    }
    check(differ == 0,
          std::string(what) + ": " + std::to_string(differ) + " of " + std::to_string(actual.size()) + " differ",
          __FILE__, __LINE__);
    CHECK(any);
}

void compare(const Shape& shape, const std::vector<int32_t>& positions) {
    AttentionRun separate(shape, positions), fused(shape, positions);
    separate.run(false);
    fused.run(true);
    const std::vector<uint16_t> out = fused.out();
    check_equal(out, separate.out(), "attention");
    CHECK(std::find(out.begin(), out.end(), uint16_t{0x7fff}) == out.end());
    check_equal(fused.cache(), separate.cache(), "cache");
}

}  // namespace

TEST(rows) {
    for (const int32_t rows : {1, 2, 3, 8, 9, 33}) {
        std::vector<int32_t> positions;
        for (int32_t row = 0; row < rows; ++row) positions.push_back(37 * row);
        compare({512, 8, 2, 64}, positions);
        compare({512, 4, 4, 128}, positions);
    }
}

// More rows than attention has counters for: two launches.
TEST(rows_of_two_launches) {
    std::vector<int32_t> positions;
    for (int32_t row = 0; row < 270; ++row) positions.push_back(row % 70);
    compare({64, 64, 64, 64}, positions);
}

TEST(padding_rows) { compare({512, 8, 2, 64}, {40, -1, 12, -1}); }

TEST(pages_tiles_and_splits) {
    // Around the ends of tiles (16), pages (64), rounds of a block's warps (128), rings (768) and splits (512).
    for (const int32_t position : {15, 16, 63, 64, 127, 128, 129, 255, 511, 512, 513, 767, 768, 1040, 2100}) {
        compare({256, 4, 4, 64}, {position});
        compare({256, 4, 2, 128}, {position, position / 2});
    }
}

TEST(sliding_windows) {
    for (const int32_t window : {1, 16, 100, 512})
        for (const int32_t kv_heads : {2, 1})  // of 10 query heads: one group of 5, two of 8 and 2
            compare({.hidden = 256, .heads = 10, .kv_heads = kv_heads, .head_dim = 64, .window = window}, {0, 99, 700});
}

TEST(groups_of_query_heads) {
    compare({512, 9, 1, 64}, {50});  // two groups of one kv head, the second of one head
    compare({512, 16, 1, 64}, {600, 3});
    compare({512, 6, 2, 128}, {50});
}

TEST(head_dimensions) {
    for (const int32_t head_dim : {80, 96, 256, 72}) compare({512, 6, 2, head_dim}, {15, 600, 64, 130});
}

TEST(types_bias_norms_and_partial_rope) {
    for (const DType dtype : {DType::F16, DType::BF16})
        for (const int32_t head_dim : {64, 80, 128, 256})
            compare({.hidden = 512,
                     .heads = 8,
                     .kv_heads = 2,
                     .head_dim = head_dim,
                     .dtype = dtype,
                     .bias = true,
                     .head_norms = true,
                     .rotary_dim = head_dim / 2},
                    {140, 2});
}

}  // namespace tinyllm::test

CUDA_TEST_MAIN()
