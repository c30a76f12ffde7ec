// Test hooks of weights: how they are loaded and made up, read back from the packed layout.
#include <algorithm>
#include <vector>

#include "api/api_guard.h"
#include "backends/registry.h"
#include "config/engine_config.h"
#include "config/model_config.h"
#include "loading/weight_loader.h"
#include "planning/plan.h"
#include "quantization/layout.h"
#include "testing/test_run.h"
#include "testing/testing.h"

namespace tinyllm::testing {

namespace {

// Where weight (row, col) and scale (row, group) lie in the backend's packed layout (quantization/layout.h).
struct PackedIndex {
    DeviceKind device;
    LinearLayout layout;

    PackedIndex(DeviceKind kind, const LinearWeight& weight)
        : device(kind),
          layout(linear_layout(kind, weight.quantization, weight.dtype, weight.n, weight.k, weight.group_length)) {}
    int64_t weight(int64_t row, int32_t col) const {
        return row * layout.k_padded + (device == DeviceKind::Cuda ? cuda_packed_col(col) : col);
    }
    int64_t scale(int64_t row, int64_t group) const {
        return device == DeviceKind::Cuda ? group * layout.n_padded + row : row * layout.groups + group;
    }
};

template <typename Element>
void read_weights(Backend& backend, const LinearWeight& weight, float* values) {
    const PackedIndex index(backend.kind(), weight);
    std::vector<Element> packed(index.layout.n_padded * index.layout.k_padded);
    backend.download(packed.data(), weight.data, packed.size() * sizeof(Element));
    for (int64_t row = 0; row < weight.n; ++row)
        for (int32_t col = 0; col < weight.k; ++col)
            values[row * weight.k + col] = to_float(packed[index.weight(row, col)]);
}

// [n, groups]
std::vector<float> read_scales(Backend& backend, const LinearWeight& weight) {
    const PackedIndex index(backend.kind(), weight);
    const int64_t groups = index.layout.groups;
    std::vector<f16> packed(index.layout.n_padded * groups);
    backend.download(packed.data(), weight.scales, packed.size() * sizeof(f16));
    std::vector<float> scales(weight.n * groups);
    for (int64_t row = 0; row < weight.n; ++row)
        for (int64_t group = 0; group < groups; ++group)
            scales[row * groups + group] = to_float(packed[index.scale(row, group)]);
    return scales;
}

// Values and, where there are any, scales.
void read_back(Backend& backend, const LinearWeight& weight, float* values, float* scales) {
    if (weight.quantization == QuantizationType::W8A16) {
        read_weights<int8_t>(backend, weight, values);
        std::ranges::copy(read_scales(backend, weight), scales);
    } else {
        with_type(weight.dtype, [&](auto type) { read_weights<decltype(type)>(backend, weight, values); });
    }
}

void load_linear(const tl_test_target& target, const tl_test_tensor& tensor, const tl_test_linear_load& load,
                 float* values, float* scales, int64_t* first_bad) {
    TestRun run(target, {}, {});
    const LinearWeight weight = run.empty_linear(tensor.rows, tensor.cols, "weight");
    *first_bad = run.load_part(
        weight, {{}, tensor},
        {load.search_scales != 0, load.importance, load.input_moments, load.output_moments, load.column_moments});
    run.finish();
    if (*first_bad < 0) read_back(run.backend(), weight, values, scales);
}

void fill_random(const tl_test_target& target, int32_t n, int32_t k, uint64_t seed, float* values, float* scales) {
    TestRun run(target, {}, {});
    const LinearWeight weight = run.empty_linear(n, k, "weight");
    run.backend().fill_random(weight, seed);
    run.finish();
    read_back(run.backend(), weight, values, scales);
}

// All matrices, in the order of DecoderSpec::matrices().
std::vector<LinearWeight> matrices(const DecoderSpec& spec, ModelWeights weights) {
    std::vector<LinearWeight> all = {weights.embedding};
    for (size_t i = 0; i < spec.layers.size(); ++i)
        for (const MatrixSpec& matrix : spec.layers[i].matrices) all.push_back(weights.layers[i].at(matrix.role));
    if (spec.head) all.push_back(weights.head);
    return all;
}

void model_scales(const ModelConfig& model, DeviceKind device, int32_t num_tensors, const char* const* names,
                  const tl_test_tensor* tensors, float* scales, int64_t capacity, int64_t* count) {
    EngineConfig engine;
    engine.device_kind = device;
    engine.kv_cache = {1, kPageTokens, 0};
    MemoryTracker tracker;
    const std::unique_ptr<Backend> backend = make_backend(device, 0);
    const PlannedMemory memory(*backend, tracker, make_plan(model, checked(engine)));
    WeightLoader loader(model, *backend, tracker, memory);
    for (int32_t i = 0; i < num_tensors; ++i) {
        const tl_test_tensor& tensor = tensors[i];
        const std::vector<int64_t> shape =
            tensor.rows == 0 ? std::vector<int64_t>{tensor.cols} : std::vector<int64_t>{tensor.rows, tensor.cols};
        loader.load(names[i], static_cast<DType>(tensor.dtype), shape, tensor.data);
    }
    loader.finish();
    *count = 0;
    for (const LinearWeight& weight : matrices(loader.spec(), loader.weights())) {
        if (weight.quantization != QuantizationType::W8A16) continue;
        for (const float scale : read_scales(*backend, weight)) {
            if (*count < capacity) scales[*count] = scale;
            ++*count;
        }
    }
}

}  // namespace

}  // namespace tinyllm::testing

using namespace tinyllm;

tl_status tl_test_load_linear(const tl_test_target* target, const tl_test_tensor* tensor,
                              const tl_test_linear_load* load, float* values, float* scales, int64_t* first_bad) {
    return guarded([&] { testing::load_linear(*target, *tensor, *load, values, scales, first_bad); });
}

tl_status tl_test_fill_random(const tl_test_target* target, int32_t n, int32_t k, uint64_t seed, float* values,
                              float* scales) {
    return guarded([&] { testing::fill_random(*target, n, k, seed, values, scales); });
}

tl_status tl_test_model_scales(const tl_model_config* model, int32_t device_kind, int32_t num_tensors,
                               const char* const* names, const tl_test_tensor* tensors, float* scales, int64_t capacity,
                               int64_t* count) {
    return guarded([&] {
        testing::model_scales(ModelConfig::from_c(*model), static_cast<DeviceKind>(device_kind), num_tensors, names,
                              tensors, scales, capacity, count);
    });
}
