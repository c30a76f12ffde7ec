// How weights get into the CPU backend's memory.
#include <algorithm>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/loading/quantize.h"
#include "core/error.h"
#include "core/parallel.h"
#include "quantization/moments.h"
#include "quantization/random_weights.h"
#include "quantization/scale_search.h"

namespace tinyllm::cpu {

namespace {

// Weights that are worth a thread.
constexpr int64_t kElementGrain = 1 << 16;

int64_t num_groups(const LinearWeight& weight) { return (weight.k + weight.group_length - 1) / weight.group_length; }

// Calls store(weight index, -127 .. 127) for every weight.
template <typename Store>
void for_random_weights(const LinearWeight& weight, uint64_t seed, const Store& store) {
    const int64_t k = weight.k, blocks = (k + kRandomBlock - 1) / kRandomBlock;
    parallel_for(weight.n, std::max<int64_t>(1, kElementGrain / k), [&](int, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
            for (int64_t block = 0; block < blocks; ++block) {
                const uint64_t bits = random_bits(seed, row, blocks, block);
                const int64_t first = block * kRandomBlock, count = std::min<int64_t>(kRandomBlock, k - first);
                for (int32_t i = 0; i < count; ++i) store(row * k + first + i, random_weight(bits, i));
            }
    });
}

template <typename T>
void fill_unquantised(const LinearWeight& weight, uint64_t seed) {
    const float scale = to_float(random_weight_scale(weight.k));
    T* const out = static_cast<T*>(weight.data);
    for_random_weights(weight, seed,
                       [&](int64_t i, int32_t value) { out[i] = from_float<T>(static_cast<float>(value) * scale); });
}

}  // namespace

int64_t CpuBackend::load_linear(MemoryTracker& tracker, const LinearWeight& weight, const RowMap& rows,
                                const HostTensor& tensor, const LinearLoad& load) {
    if (load.output_moments != nullptr) output_moments(tensor, load.input_moments, load.output_moments);
    if (load.column_moments != nullptr) column_moments(tensor, load.column_moments);
    if (weight.quantization != QuantizationType::W8A16 || !load.search_scales)
        return quantize_linear(isa_, weight, rows, tensor, nullptr);
    const HostBuffer scales(tracker, Component::Staging, tensor.rows * num_groups(weight) * sizeof(f16), "scales");
    f16* const chosen = static_cast<f16*>(scales.data());
    choose_scales(tensor, weight.group_length, load.importance, chosen);
    return quantize_linear(isa_, weight, rows, tensor, chosen);
}

void CpuBackend::fill_random(const LinearWeight& weight, uint64_t seed) {
    if (weight.quantization == QuantizationType::W8A16) {
        f16* const scales = static_cast<f16*>(weight.scales);
        std::fill_n(scales, weight.n * num_groups(weight), random_weight_scale(weight.k));
        int8_t* const out = static_cast<int8_t*>(weight.data);
        for_random_weights(weight, seed, [&](int64_t i, int32_t value) { out[i] = static_cast<int8_t>(value); });
        return;
    }
    switch (weight.dtype) {
        case DType::F16:
            return fill_unquantised<f16>(weight, seed);
        case DType::BF16:
            return fill_unquantised<bf16>(weight, seed);
        default:
            return fill_unquantised<float>(weight, seed);
    }
}

}  // namespace tinyllm::cpu
