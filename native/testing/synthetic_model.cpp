#include "testing/synthetic_model.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/dtype.h"
#include "core/parallel.h"
#include "model/decoder_spec.h"
#include "quantization/random_weights.h"

namespace tinyllm::testing {

namespace {

constexpr int64_t kBlockElements = int64_t{1} << 29;
constexpr uint64_t kSeed = 1;

int64_t size_of(const CheckpointTensor& tensor) {
    int64_t size = 1;
    for (const int64_t dim : tensor.shape) size *= dim;
    return size;
}

// `count` values of variance 1 / k, none of them zero.
std::vector<f16> random_block(int64_t count, int32_t k) {
    std::vector<f16> block(count);
    const float scale = to_float(random_weight_scale(k));
    f16 values[256];
    for (int32_t byte = 0; byte < 256; ++byte)
        values[byte] = from_float<f16>(static_cast<float>(random_weight(byte, 0)) * scale);
    const int64_t numbers = (count + kRandomBlock - 1) / kRandomBlock;
    parallel_for(numbers, 4096, [&](int, int64_t begin, int64_t end) {
        for (int64_t number = begin; number < end; ++number) {
            const uint64_t bits = random_bits(kSeed, 0, numbers, number);
            const int64_t first = number * kRandomBlock, n = std::min<int64_t>(kRandomBlock, count - first);
            for (int64_t i = 0; i < n; ++i) block[first + i] = values[bits >> (8 * i) & 0xff];
        }
    });
    return block;
}

}  // namespace

LoadResult load_synthetic(Runner& runner) {
    const DecoderSpec& spec = runner.model_spec();
    const std::vector<CheckpointTensor> tensors = checkpoint_tensors(spec);
    int64_t largest = 0, total = 0;
    for (const CheckpointTensor& tensor : tensors) {
        largest = std::max(largest, size_of(tensor));
        if (!tensor.again) total += size_of(tensor);
    }
    const std::vector<f16> block = random_block(std::max(largest, std::min(total, kBlockElements)), spec.hidden_dim);

    int64_t at = 0;
    const auto start = std::chrono::steady_clock::now();
    for (const CheckpointTensor& tensor : tensors) {
        if (tensor.shape.size() == 1) {
            const std::vector<f16> ones(size_of(tensor), from_float<f16>(1.0f));
            runner.load_tensor(tensor.name, DType::F16, tensor.shape, ones.data());
            continue;
        }
        if (at + size_of(tensor) > static_cast<int64_t>(block.size())) at = 0;
        runner.load_tensor(tensor.name, DType::F16, tensor.shape, block.data() + at);
        at += size_of(tensor);
    }
    runner.finish_load();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return {seconds, static_cast<uint64_t>(total) * sizeof(f16), block.size() * sizeof(f16)};
}

std::vector<int32_t> random_tokens(int32_t count, int32_t vocab_size, uint64_t seed) {
    std::vector<int32_t> tokens(count);
    for (int32_t i = 0; i < count; ++i)
        tokens[i] = static_cast<int32_t>(random_bits(seed, i, 1, 0) % static_cast<uint64_t>(vocab_size));
    return tokens;
}

}  // namespace tinyllm::testing
