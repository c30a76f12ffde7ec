// The CPU backend's quantiser: bits against its definition, and the values that it must refuse.
#include "backends/cpu/loading/quantize.h"

#include <algorithm>
#include <limits>

#include "check.h"
#include "core/parallel.h"
#include "cpu/cpu_cases.h"

using namespace tinyllm;
using namespace tinyllm::cpu;
using namespace tinyllm::test;

namespace {

// A tensor of a checkpoint file: at an odd address, since files align nothing.
class Tensor {
public:
    explicit Tensor(const Array& values, int64_t rows, int64_t cols)
        : bytes_(1 + rows * cols * dtype_size(values.dtype())), host_{values.dtype(), rows, cols, bytes_.data() + 1} {
        std::memcpy(bytes_.data() + 1, values.data(), bytes_.size() - 1);
    }
    const HostTensor& host() const { return host_; }

private:
    std::vector<unsigned char> bytes_;
    HostTensor host_;
};

// A layer to load into, filled with a pattern.
struct Target {
    Target(QuantizationType quantization, DType dtype, int32_t n, int32_t k, int32_t group_length)
        : data(int64_t{n} * k * (quantization == QuantizationType::NONE ? dtype_size(dtype) : 1), 0x55),
          scales(int64_t{n} * ((k + group_length - 1) / group_length), f16{0x5555}) {
        weight.n = n;
        weight.k = k;
        weight.quantization = quantization;
        weight.group_length = group_length;
        weight.dtype = dtype;
        weight.data = data.data();
        weight.scales = quantization == QuantizationType::NONE ? nullptr : scales.data();
    }
    Target(const Target&) = delete;
    Target& operator=(const Target&) = delete;

    std::vector<unsigned char> data;
    std::vector<f16> scales;
    LinearWeight weight;
};

// The definition in ops/backend.h for the row of a target that one row of a tensor fills.
void check_row(const Target& target, int64_t target_row, const Array& values, int64_t row) {
    const int64_t k = target.weight.k, length = target.weight.group_length, groups = (k + length - 1) / length;
    for (int64_t group = 0; group < groups; ++group) {
        const int64_t begin = group * length, end = std::min(k, begin + length);
        float absmax = 0;
        for (int64_t i = begin; i < end; ++i) absmax = std::max(absmax, std::abs(values.at(row * k + i)));
        const f16 scale = from_float<f16>(absmax / 127.0f);
        CHECK(target.scales[target_row * groups + group].bits == scale.bits);
        for (int64_t i = begin; i < end; ++i) {
            const float ratio = to_float(scale) == 0 ? 0 : values.at(row * k + i) / to_float(scale);
            const float q = std::clamp(std::nearbyint(ratio), -127.0f, 127.0f);
            CHECK(static_cast<int8_t>(target.data[target_row * k + i]) == q);
        }
    }
}

int64_t load(CpuIsa isa, QuantizationType quantization, DType dtype, const Array& values, int64_t rows, int64_t cols) {
    const Tensor tensor(values, rows, cols);
    Target target(quantization, dtype, static_cast<int32_t>(rows), static_cast<int32_t>(cols), 32);
    return quantize_linear(isa, target.weight, {}, tensor.host(), nullptr);
}

}  // namespace

TEST_CASE("quantises as defined") {
    constexpr int32_t kRows = 5;
    for (CpuIsa isa : available_isas())
        for (DType source : kActivations)
            for (int32_t k : {1, 31, 33, 100, 128, 576})
                for (int32_t group_length : {32, 128, k}) {
                    std::vector<float> values = random_floats(int64_t{kRows} * k, 1, 0.02f);
                    for (int64_t i = 0; i < k; ++i) {
                        values[k + i] = 0;           // a row of zeros,
                        values[2 * k + i] *= 3e-4f;  // one with scales below f16's normal numbers,
                        values[3 * k + i] *= 1e-7f;  // and one whose scales are 0 in f16
                    }
                    const Array array(source, values);
                    const Tensor tensor(array, kRows, k);
                    Target target(QuantizationType::W8A16, DType::F16, kRows, k, group_length);
                    CHECK(quantize_linear(isa, target.weight, {}, tensor.host(), nullptr) == -1);
                    for (int64_t row = 0; row < kRows; ++row) check_row(target, row, array, row);
                }
}

TEST_CASE("halves round to even") {
    std::vector<float> values = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 126.5f, -127};
    values.resize(20, 3.5f);
    for (CpuIsa isa : available_isas()) {
        const Array array(DType::F32, values);
        Target target(QuantizationType::W8A16, DType::F16, 1, 20, 20);
        CHECK(quantize_linear(isa, target.weight, {}, Tensor(array, 1, 20).host(), nullptr) == -1);
        const int8_t expected[] = {127, 0, 2, 2, 0, -2, 126, -127, 4};
        for (int i = 0; i < 9; ++i) CHECK(static_cast<int8_t>(target.data[i]) == expected[i]);
    }
}

TEST_CASE("converts unquantised weights") {
    constexpr int32_t kRows = 3;
    for (CpuIsa isa : available_isas())
        for (DType source : kActivations)
            for (DType dtype : kActivations)
                for (int32_t k : {1, 15, 16, 33, 200}) {
                    const Array array(source, random_floats(int64_t{kRows} * k, 3));
                    const Tensor tensor(array, kRows, k);
                    Target target(QuantizationType::NONE, dtype, kRows, k, k);
                    CHECK(quantize_linear(isa, target.weight, {}, tensor.host(), nullptr) == -1);
                    Array expected(dtype, int64_t{kRows} * k);
                    for (int64_t i = 0; i < kRows * k; ++i) expected.set(i, array.at(i));
                    CHECK(std::memcmp(target.data.data(), expected.data(), target.data.size()) == 0);
                }
}

TEST_CASE("rows land where the map says") {
    constexpr int32_t kRows = 40, kK = 48;
    for (CpuIsa isa : available_isas())
        for (const RowMap map : {RowMap{3, 1}, RowMap{0, 2}, RowMap{1, 2}}) {
            const Array array(DType::BF16, random_floats(kRows * kK, 4));
            const Tensor tensor(array, kRows, kK);
            Target target(QuantizationType::W8A16, DType::BF16, 2 * kRows, kK, 32);
            CHECK(quantize_linear(isa, target.weight, map, tensor.host(), nullptr) == -1);
            std::vector<bool> filled(2 * kRows);
            for (int64_t row = 0; row < kRows; ++row) {
                check_row(target, map.start + row * map.stride, array, row);
                filled[map.start + row * map.stride] = true;
            }
            for (int64_t row = 0; row < 2 * kRows; ++row)
                for (int64_t i = row * kK; i < (row + 1) * kK; ++i) CHECK((filled[row] || target.data[i] == 0x55));
        }
}

// Many threads meet bad values; the first in the tensor is the answer.
TEST_CASE("reports the first bad value") {
    constexpr int64_t kRows = 300, kK = 1000;
    constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> good = random_floats(kRows * kK, 5);
    for (CpuIsa isa : available_isas())
        for (QuantizationType quantization : {QuantizationType::W8A16, QuantizationType::NONE})
            for (DType source : kActivations)
                for (float bad : {kNan, kInf, -kInf}) {
                    Array array(source, good);
                    for (int64_t i : {299 * kK, 120 * kK + 999, 17 * kK + 31, 17 * kK + 30}) {
                        array.set(i, bad);
                        CHECK(load(isa, quantization, DType::F16, array, kRows, kK) == i);
                    }
                }
}

TEST_CASE("refuses what the target cannot hold") {
    constexpr int64_t kK = 70;
    const auto first_bad = [](CpuIsa isa, QuantizationType quantization, DType dtype, float value) {
        Array array(DType::F32, kK);
        array.set(40, -value);
        return load(isa, quantization, dtype, array, 1, kK);
    };
    for (CpuIsa isa : available_isas()) {
        // f16 rounds 65520 and above to infinity.
        CHECK(first_bad(isa, QuantizationType::W8A16, DType::F16, 65519.0f * 127) == -1);
        CHECK(first_bad(isa, QuantizationType::W8A16, DType::F16, 65521.0f * 127) == 40);
        CHECK(first_bad(isa, QuantizationType::NONE, DType::F16, 65519.0f) == -1);
        CHECK(first_bad(isa, QuantizationType::NONE, DType::F16, 65520.0f) == 40);
        CHECK(first_bad(isa, QuantizationType::NONE, DType::BF16, 1e38f) == -1);
        CHECK(first_bad(isa, QuantizationType::NONE, DType::BF16, 3.4e38f) == 40);
        CHECK(first_bad(isa, QuantizationType::NONE, DType::F32, 3.4e38f) == -1);
    }
}
