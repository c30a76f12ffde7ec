// The CPU backend's linear layers: against double precision, and the same bits however rows and work are split.
#include "backends/cpu/linear/linear.h"

#include <cstdlib>
#include <limits>
#include <memory>
#include <string>

#include "check.h"
#include "core/parallel.h"
#include "cpu/cpu_cases.h"
#include "tolerances.h"

using namespace tinyllm;
using namespace tinyllm::cpu;
using namespace tinyllm::test;

namespace {

using Kind = LinearOutput::Kind;

// Threads in number neither one nor the cores of most machines, so that splits are uneven. Before the first loop.
const int g_environment = setenv("TINYLLM_NUM_THREADS", "3", 1);

constexpr int32_t kNotQuantised = -1;
constexpr float kUntouched = 77.0f;  // in gaps between rows of the output

// A layer with random weights. group_length kNotQuantised: weights of type T.
class Layer {
public:
    Layer(DType activation, int32_t n, int32_t k, int32_t group_length, bool bias, uint32_t seed)
        : dense_(activation, random_floats(int64_t{n} * k, seed, 0.05f)) {
        weight_.n = n;
        weight_.k = k;
        weight_.dtype = activation;
        if (bias) {
            bias_ = random_floats(n, seed + 1);
            weight_.bias = bias_.data();
        }
        if (group_length == kNotQuantised) {
            weight_.quantization = QuantizationType::NONE;
            weight_.data = dense_.data();
            return;
        }
        weight_.group_length = group_length;
        groups_ = (k + group_length - 1) / group_length;
        std::mt19937 engine(seed);
        quantised_.resize(int64_t{n} * k);
        for (int8_t& q : quantised_) q = static_cast<int8_t>(static_cast<int>(engine() % 255) - 127);
        scales_.resize(int64_t{n} * groups_);
        for (f16& scale : scales_) scale = from_float<f16>(0.0002f + 0.000001f * static_cast<float>(engine() % 1000));
        weight_.data = quantised_.data();
        weight_.scales = scales_.data();
    }
    Layer(const Layer&) = delete;
    Layer& operator=(const Layer&) = delete;

    const LinearWeight& weight() const { return weight_; }

    // Outputs [begin, end) as a layer of their own.
    LinearWeight slice(int32_t begin, int32_t end) const {
        LinearWeight out = weight_;
        const int64_t element = weight_.quantization == QuantizationType::NONE ? dtype_size(weight_.dtype) : 1;
        out.n = end - begin;
        out.data = static_cast<char*>(weight_.data) + begin * int64_t{weight_.k} * element;
        if (out.scales != nullptr) out.scales = static_cast<f16*>(weight_.scales) + begin * groups_;
        if (out.bias != nullptr) out.bias = weight_.bias + begin;
        return out;
    }

    double value(int64_t n, int64_t k) const {
        if (weight_.quantization == QuantizationType::NONE) return dense_.at(n * weight_.k + k);
        const float scale = to_float(scales_[n * groups_ + k / weight_.group_length]);
        return double{scale} * quantised_[n * weight_.k + k];
    }

    // x W^T + b of one row.
    std::vector<double> outputs(const Array& x, int64_t row) const {
        std::vector<double> out(weight_.n);
        for (int64_t n = 0; n < weight_.n; ++n) {
            out[n] = weight_.bias != nullptr ? weight_.bias[n] : 0.0f;
            for (int64_t k = 0; k < weight_.k; ++k) out[n] += x.at(row * weight_.k + k) * value(n, k);
        }
        return out;
    }

private:
    LinearWeight weight_;
    Array dense_;
    std::vector<int8_t> quantised_;
    std::vector<f16> scales_;
    std::vector<float> bias_;
    int64_t groups_ = 0;
};

int64_t output_dim(Kind kind, int64_t n) { return kind == Kind::SiluMul ? n / 2 : n; }

void run(CpuIsa isa, DType activation, const LinearWeight& weight, const void* x, int64_t rows,
         const LinearOutput& out) {
    LinearScratch scratch;
    scratch.bytes = linear_scratch_bytes(weight.k);
    const std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(64, scratch.bytes), std::free);
    scratch.data = memory.get();
    linear(isa, activation, weight, x, rows, out, scratch);
}

// The layer's result, in (or added to) rows of zeros.
Array result(CpuIsa isa, const LinearWeight& weight, const Array& x, int64_t rows, Kind kind) {
    const int64_t dim = output_dim(kind, weight.n);
    Array out(kind == Kind::StoreFloat ? DType::F32 : x.dtype(), rows * dim);
    run(isa, x.dtype(), weight, x.data(), rows, {kind, out.data(), dim});
    return out;
}

// Whether `count` elements of a from i on are those of b from j on.
bool same_bits(Array& a, int64_t i, Array& b, int64_t j, int64_t count) {
    return std::memcmp(a.at_element(i), b.at_element(j), count * dtype_size(a.dtype())) == 0;
}

double silu(double x) { return x / (1 + std::exp(-x)); }

// One case against double precision, with gaps between the rows of the output.
void compare(CpuIsa isa, DType activation, const Layer& layer, int64_t rows, Kind kind) {
    const LinearWeight& weight = layer.weight();
    const int64_t dim = output_dim(kind, weight.n), stride = dim + 3;
    const DType out_type = kind == Kind::StoreFloat ? DType::F32 : activation;
    const Array x(activation, random_floats(rows * weight.k, 5));
    Array out(out_type, random_floats(rows * stride, 6));
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = dim; i < stride; ++i) out.set(row * stride + i, kUntouched);
    const Array before = out;
    run(isa, activation, weight, x.data(), rows, {kind, out.data(), stride});
    const Tolerance tolerance = rounded_once(out_type);
    for (int64_t row = 0; row < rows; ++row) {
        const std::vector<double> y = layer.outputs(x, row);
        for (int64_t i = 0; i < dim; ++i) {
            const int64_t at = row * stride + i;
            const double expected = kind == Kind::AddTo     ? before.at(at) + y[i]
                                    : kind == Kind::SiluMul ? silu(y[2 * i]) * y[2 * i + 1]
                                                            : y[i];
            CHECK_CLOSE(out.at(at), expected, tolerance, row, i);
        }
        for (int64_t i = dim; i < stride; ++i) CHECK(out.at(row * stride + i) == kUntouched);
    }
}

}  // namespace

// Every k and group length with every type; rows (few and many), outputs, last steps and bias take turns.
TEST_CASE("equals double precision") {
    constexpr int32_t kRows[] = {1, 2, 7, 13, 30};
    constexpr int32_t kOutputs[] = {2, 17, 64, 70, 1, 130, 3};
    constexpr Kind kKinds[] = {Kind::Store, Kind::AddTo, Kind::SiluMul, Kind::StoreFloat};
    for (CpuIsa isa : available_isas()) {
        uint32_t turn = 0;
        for (DType activation : kActivations)
            for (int32_t k : {1, 31, 33, 63, 65, 100, 576, 1536, 2113})
                for (int32_t group_length : {32, 64, 128, 256, k, kNotQuantised}) {
                    const Kind kind = kKinds[turn % 4];
                    const int32_t n = kOutputs[turn % 7] * (kind == Kind::SiluMul ? 2 : 1);
                    const Layer layer(activation, n, k, group_length, turn % 3 == 0, turn);
                    compare(isa, activation, layer, kRows[turn % 5], kind);
                    ++turn;
                }
    }
}

TEST_CASE("many rows equal double precision") {
    for (CpuIsa isa : available_isas())
        for (DType activation : kActivations)
            compare(isa, activation, {activation, 68, 160, 64, true, 3}, 301, Kind::Store);
}

TEST_CASE("bits do not depend on the number of rows") {
    constexpr int32_t kN = 70, kK = 1101;
    constexpr int64_t kRows = 300;
    for (CpuIsa isa : available_isas())
        for (DType activation : kActivations)
            for (int32_t group_length : {128, kK, kNotQuantised})
                for (Kind kind : {Kind::AddTo, Kind::SiluMul}) {
                    const Layer layer(activation, kN, kK, group_length, true, 11);
                    const Array x(activation, random_floats(kRows * kK, 12));
                    Array whole = result(isa, layer.weight(), x, kRows, kind);
                    const int64_t dim = output_dim(kind, kN);
                    int64_t first = 0;
                    for (int64_t rows : {1, 2, 7, 3, 12, 13, 150, 1, 31}) {
                        Array part(activation, rows * dim);
                        const char* x_part = static_cast<const char*>(x.data()) + first * kK * dtype_size(activation);
                        run(isa, activation, layer.weight(), x_part, rows, {kind, part.data(), dim});
                        CHECK(same_bits(part, 0, whole, first * dim, rows * dim));
                        first += rows;
                    }
                }
}

// Where an output lies in its layer decides which thread, panel and tile computes it.
TEST_CASE("bits do not depend on the split of outputs") {
    constexpr int32_t kN = 150, kK = 577;
    for (CpuIsa isa : available_isas())
        for (DType activation : kActivations)
            for (int32_t group_length : {64, kNotQuantised})
                for (Kind kind : {Kind::Store, Kind::SiluMul})
                    for (int64_t rows : {1, 20}) {
                        const Layer layer(activation, kN, kK, group_length, true, 21);
                        const Array x(activation, random_floats(rows * kK, 22));
                        Array whole = result(isa, layer.weight(), x, rows, kind);
                        const int64_t dim = output_dim(kind, kN);
                        for (int32_t begin : {2, 34, 78, 148}) {
                            const LinearWeight slice = layer.slice(begin, kN);
                            Array part = result(isa, slice, x, rows, kind);
                            const int64_t first = output_dim(kind, begin), part_dim = output_dim(kind, slice.n);
                            for (int64_t row = 0; row < rows; ++row)
                                CHECK(same_bits(part, row * part_dim, whole, row * dim + first, part_dim));
                        }
                    }
}

TEST_CASE("a nan stays in its row") {
    constexpr int32_t kN = 20, kK = 33;
    for (CpuIsa isa : available_isas())
        for (DType activation : kActivations)
            for (int64_t rows : {3, 20}) {
                const Layer layer(activation, kN, kK, 32, false, 31);
                std::vector<float> values = random_floats(rows * kK, 32);
                const Array clean = result(isa, layer.weight(), Array(activation, values), rows, Kind::Store);
                for (int64_t i = kK; i < 2 * kK; ++i) values[i] = std::numeric_limits<float>::quiet_NaN();
                const Array out = result(isa, layer.weight(), Array(activation, values), rows, Kind::Store);
                for (int64_t row = 0; row < rows; ++row)
                    for (int64_t i = row * kN; i < (row + 1) * kN; ++i)
                        CHECK((row == 1 ? std::isnan(out.at(i)) : out.at(i) == clean.at(i)));
            }
}

// Gates far outside the range of exp(). With k = 1 and weights of 1, gate and up are x.
TEST_CASE("silu of large values") {
    const std::vector<float> ones(2, 1.0f);
    Array weights(DType::F32, ones);
    LinearWeight weight;
    weight.n = 2;
    weight.k = 1;
    weight.quantization = QuantizationType::NONE;
    weight.dtype = DType::F32;
    weight.data = weights.data();
    const std::vector<float> values = {-1e4f, -200, -104, -88.5f, -87, -20, -1, 0, 1e-3f, 1, 20, 87, 88.5f, 200, 1e4f};
    const auto rows = static_cast<int64_t>(values.size());
    for (CpuIsa isa : available_isas()) {
        const Array out = result(isa, weight, Array(DType::F32, values), rows, Kind::SiluMul);
        for (int64_t i = 0; i < rows; ++i) CHECK_CLOSE(out.at(i), silu(values[i]) * values[i], kSilu, i);
    }
}

TEST_CASE("no rows write nothing") {
    for (CpuIsa isa : available_isas()) {
        const Layer layer(DType::F16, 8, 32, 32, true, 41);
        for (Kind kind : {Kind::Store, Kind::AddTo, Kind::SiluMul, Kind::StoreFloat}) {
            const DType out_type = kind == Kind::StoreFloat ? DType::F32 : DType::F16;
            Array out(out_type, std::vector<float>(8, kUntouched));
            const Array before = out;
            run(isa, DType::F16, layer.weight(), nullptr, 0, {kind, out.data(), 8});
            CHECK(out.same_bits(before));
        }
    }
}

TEST_CASE("misuse is an error") {
    const Layer layer(DType::F16, 8, 64, 24, false, 51);
    CHECK_THROWS_WITH(run(CpuIsa::Portable, DType::F16, layer.weight(), nullptr, 1, {}),
                      doctest::Contains("group_length"));
    const Layer dense(DType::F16, 7, 64, kNotQuantised, false, 52);
    CHECK_THROWS_WITH(run(CpuIsa::Portable, DType::BF16, dense.weight(), nullptr, 1, {}), doctest::Contains("dtype"));
    CHECK_THROWS_WITH(run(CpuIsa::Portable, DType::F16, dense.weight(), nullptr, 1, {Kind::SiluMul, nullptr, 3}),
                      doctest::Contains("SiluMul"));
    CHECK_THROWS_WITH(linear(CpuIsa::Portable, DType::F16, dense.weight(), nullptr, 1, {}, {}),
                      doctest::Contains("scratch"));
}
