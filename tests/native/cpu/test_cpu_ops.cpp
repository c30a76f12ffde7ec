// The smaller ops and kernels of the CPU backend: vector versions against the plain loops, ops against double
// precision.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/rows/norm.h"
#include "check.h"
#include "core/error.h"
#include "core/parallel.h"
#include "cpu/cpu_cases.h"
#include "ops/kv_cache.h"
#include "ops/rope.h"
#include "tolerances.h"

using namespace tinyllm;
using namespace tinyllm::cpu;
using namespace tinyllm::test;

namespace {

const int g_environment = setenv("TINYLLM_NUM_THREADS", "3", 1);

// Around whole vectors of 8 and 16, and a hidden_dim.
constexpr int64_t kLengths[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 64, 80, 576};

template <typename F>
void for_kernels(const F& body) {
    for (CpuIsa isa : available_isas())
        for (DType dtype : kActivations) body(kernels(isa), dtype);
}

}  // namespace

TEST_CASE("isa is capped by the environment") {
    const char* before = std::getenv("TINYLLM_CPU_ISA");
    const std::string saved = before == nullptr ? "" : before;
    for (CpuIsa isa : {CpuIsa::Portable, CpuIsa::Avx2, CpuIsa::Avx512}) {
        setenv("TINYLLM_CPU_ISA", isa_name(isa), 1);
        CHECK(detected_isa() <= isa);
    }
    for (const char* wrong : {"", "AVX2", "sse", "avx512bf16"}) {
        setenv("TINYLLM_CPU_ISA", wrong, 1);
        CHECK_THROWS_WITH(detected_isa(), doctest::Contains("TINYLLM_CPU_ISA"));
        const tl_device_info info = cpu::device_info();
        CHECK(info.usable == 0);
        CHECK(std::string(info.description).find("TINYLLM_CPU_ISA") == 0);
    }
    unsetenv("TINYLLM_CPU_ISA");
    if (!saved.empty()) setenv("TINYLLM_CPU_ISA", saved.c_str(), 1);
}

TEST_CASE("device info names what is used") {
    const tl_device_info info = cpu::device_info();
    CHECK(info.usable == 1);
    CHECK(info.device_kind == TL_DEVICE_CPU);
    CHECK(info.num_units == num_threads());
    CHECK(std::string(info.description).find(isa_name(detected_isa())) == 0);
    CHECK(std::string(info.name).size() >= 3);
    CHECK(info.free_bytes > 0);
    CHECK(info.free_bytes <= info.total_bytes);
}

TEST_CASE("exponential is exact to two units") {
    for (CpuIsa isa : available_isas()) {
        const LogitKernels& kernels = cpu::kernels(isa).logits;
        for (float x = -87.33f; x < 0; x += 0.00137f)
            CHECK_CLOSE(kernels.sum_exp(&x, 1, 0, 1), std::exp(double{x}), kVectorExp);
        for (float x : {0.0f, -1e-30f}) CHECK(kernels.sum_exp(&x, 1, 0, 1) == 1);
        for (float x : {-104.0f, -1e10f, -HUGE_VALF, NAN}) CHECK(kernels.sum_exp(&x, 1, 0, 1) == 0);
    }
}

TEST_CASE("sums of exponentials of long rows") {
    for (CpuIsa isa : available_isas()) {
        for (int64_t n : {1, 17, 1024, 1030, 130001}) {
            const std::vector<float> x = random_floats(n, 3, 2.0f);
            double want = 0;
            for (float value : x) want += std::exp((double{value} - 9.0) * 0.7);
            CHECK_CLOSE(kernels(isa).logits.sum_exp(x.data(), n, 9.0f, 0.7f), want, kFloatSums);
        }
    }
}

TEST_CASE("rms norm matches double precision") {
    for_kernels([](const CpuKernels& kernels, DType dtype) {
        for (int64_t n : kLengths) {
            const Array x(dtype, random_floats(3 * n, 1, 3.0f));
            const std::vector<float> weight = random_floats(n, 2);
            Array out(dtype, 2 * n);
            const std::vector<int32_t> row_of = {2, 0};
            rms_norm_rows(kernels, dtype, {weight.data(), 1e-3f}, x.data(), row_of.data(), 2, n, out.data());
            for (int64_t row = 0; row < 2; ++row) {
                double squares = 0;
                for (int64_t i = 0; i < n; ++i) squares += std::pow(x.at(row_of[row] * n + i), 2);
                const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-3);
                for (int64_t i = 0; i < n; ++i)
                    CHECK_CLOSE(out.at(row * n + i), x.at(row_of[row] * n + i) * scale * weight[i], rounded_once(dtype),
                                row, i);
            }
        }
    });
}

TEST_CASE("vector loops equal the plain ones") {
    for_kernels([](const CpuKernels& kernels, DType dtype) {
        const RowKernels &fast = kernels.rows(dtype), &plain = kPortableKernels.rows(dtype);
        for (int64_t n : kLengths) {
            const Array x(dtype, random_floats(2 * n, 1, 3.0f));
            const std::vector<float> cos = random_floats(n, 2), sin = random_floats(n, 3);
            Array a(dtype, 2 * n), b(dtype, 2 * n);
            fast.rotate(x.data(), cos.data(), sin.data(), n, a.data());
            plain.rotate(x.data(), cos.data(), sin.data(), n, b.data());
            CHECK(a.same_bits(b));
            Array in_place = x;
            fast.rotate(in_place.data(), cos.data(), sin.data(), n, in_place.data());
            CHECK(in_place.same_bits(b));

            std::vector<float> wide(pad_floats(n), NAN), wide_plain(pad_floats(n), NAN);
            fast.widen(x.data(), 0.3f, n, wide.data());
            plain.widen(x.data(), 0.3f, n, wide_plain.data());
            CHECK(wide == wide_plain);
            fast.narrow(cos.data(), 1.7f, n, a.data());
            plain.narrow(cos.data(), 1.7f, n, b.data());
            CHECK(a.same_bits(b));

            const std::vector<float> numbers = random_floats(n, 4, 40.0f);
            const std::vector<int8_t> q(numbers.begin(), numbers.end());
            for (int64_t group : {int64_t{32}, n}) {
                std::vector<f16> scales;
                for (float s : random_floats((n + group - 1) / group, 5, 0.01f)) scales.push_back(from_float<f16>(s));
                fast.dequantize(q.data(), scales.data(), group, n, a.data());
                plain.dequantize(q.data(), scales.data(), group, n, b.data());
                CHECK(a.same_bits(b));
            }

            const Array tile(dtype, random_floats(kPageTokens * n, 6));
            for (int64_t tokens : {1, 16, 33, 64}) {
                std::vector<float> turned(n * kPageTokens), turned_plain(n * kPageTokens);
                fast.transpose_keys(tile.data(), tokens, n, turned.data());
                plain.transpose_keys(tile.data(), tokens, n, turned_plain.data());
                for (int64_t d = 0; d < n; ++d)
                    CHECK(std::equal(turned.begin() + d * kPageTokens, turned.begin() + d * kPageTokens + tokens,
                                     turned_plain.begin() + d * kPageTokens));
            }
        }
    });
}

// Every 16-bit value, and floats around the borders of rounding, overflow and underflow.
TEST_CASE("vector conversions equal the plain ones") {
    std::vector<float> hard = {65504,  65519.9f, 65520, 1e30f,     6.1e-5f,  5.96e-8f,    2.98e-8f,    2.99e-8f,
                               1e-40f, 0,        -0.0f, HUGE_VALF, 3.39e38f, 1.00390625f, 1.01171875f, 1.00048828125f};
    for (float x : random_floats(4096, 8, 1.0f)) hard.push_back(x * std::exp2(std::round(20 * x)));
    for (size_t i = hard.size(); i-- > 0;) hard.push_back(-hard[i]);
    for_kernels([&](const CpuKernels& kernels, DType dtype) {
        const RowKernels &fast = kernels.rows(dtype), &plain = kPortableKernels.rows(dtype);
        const auto n = static_cast<int64_t>(hard.size());
        Array a(dtype, n), b(dtype, n);
        fast.narrow(hard.data(), 1, n, a.data());
        plain.narrow(hard.data(), 1, n, b.data());
        CHECK(a.same_bits(b));
        if (dtype == DType::F32) return;
        std::vector<uint16_t> all(65536);
        for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
        std::vector<float> wide(all.size()), wide_plain(all.size());
        fast.widen(all.data(), 1, 65536, wide.data());
        plain.widen(all.data(), 1, 65536, wide_plain.data());
        for (size_t i = 0; i < all.size(); ++i)
            CHECK((wide[i] == wide_plain[i] || (std::isnan(wide[i]) && std::isnan(wide_plain[i]))));
    });
}

TEST_CASE("embed reads rows and marks tokens") {
    constexpr int32_t kVocab = 40, kDim = 72, kGroup = 32, kGroups = 3;
    const std::vector<float> numbers = random_floats(kVocab * kDim, 1, 40.0f);
    std::vector<int8_t> q(numbers.begin(), numbers.end());
    std::vector<f16> scales;
    for (float s : random_floats(kVocab * kGroups, 2)) scales.push_back(from_float<f16>(s));
    const std::vector<int32_t> tokens = {39, 0, 5, 0, 33}, slots = {1, 0, -1, 0, 1};
    for (CpuIsa isa : available_isas()) {
        for (DType dtype : kActivations) {
            CpuBackend backend(isa);
            StepBatch batch;
            batch.dtype = dtype;
            batch.num_rows = 5;
            batch.token_ids = tokens.data();
            batch.slots = slots.data();
            LinearWeight table;
            table.n = kVocab;
            table.k = kDim;
            table.group_length = kGroup;
            table.data = q.data();
            table.scales = scales.data();
            std::vector<uint32_t> seen(4);
            Array hidden(dtype, 5 * kDim);
            backend.embed(batch, table, seen.data(), hidden.data());
            for (int64_t row = 0; row < 5; ++row)
                for (int64_t i = 0; i < kDim; ++i) {
                    const double scale = to_float(scales[tokens[row] * kGroups + i / kGroup]);
                    CHECK_CLOSE(hidden.at(row * kDim + i), scale * q[tokens[row] * kDim + i], rounded_once(dtype), row,
                                i);
                }
            CHECK(seen == std::vector<uint32_t>({1u, 0u, 0u, (1u << 7) | (1u << 1)}));

            Array dense(dtype, random_floats(kVocab * kDim, 3));
            table.quantization = QuantizationType::NONE;
            table.data = dense.data();
            table.scales = nullptr;
            backend.embed(batch, table, nullptr, hidden.data());
            for (int64_t row = 0; row < 5; ++row)
                for (int64_t i = 0; i < kDim; ++i) CHECK(hidden.at(row * kDim + i) == dense.at(tokens[row] * kDim + i));
        }
    }
}

TEST_CASE("rope table turns by position") {
    constexpr int32_t kDim = 16, kOriginal = 128;
    const std::vector<int32_t> positions = {0, 1, 100, 4095, 9000}, lens = {1, 2, 128, 4096, 9001};
    StepBatch batch;
    batch.num_rows = 5;
    batch.positions = positions.data();
    batch.rope_lens = lens.data();
    std::vector<float> inv_freq;
    for (int i = 0; i < kDim / 2; ++i) inv_freq.push_back(static_cast<float>(std::pow(10000.0, -2.0 * i / kDim)));
    for (bool dynamic : {false, true}) {
        RopeParams rope{inv_freq.data(), kDim, 1.25f, dynamic, 10000.0f, 4.0f, kOriginal};
        std::vector<float> table(5 * kDim);
        CpuBackend(detected_isa()).rope_table(batch, rope, table.data());
        for (int row = 0; row < 5; ++row)
            for (int i = 0; i < kDim / 2; ++i) {
                const double theta = dynamic ? dynamic_rope_theta(10000, 4, kOriginal, kDim, lens[row]) : 10000.0;
                const double angle = positions[row] * std::pow(theta, -2.0 * i / kDim);
                CHECK_CLOSE(table[row * kDim + i], 1.25 * std::cos(angle), kRopeAngle, row, i);
                CHECK_CLOSE(table[row * kDim + kDim / 2 + i], 1.25 * std::sin(angle), kRopeAngle, row, i);
            }
    }
}

TEST_CASE("scratch that is too small is refused") {
    CpuBackend backend(CpuIsa::Portable);
    char small[16];
    backend.bind_scratch(small, sizeof small);
    StepBatch batch;
    const SampleParams params{};
    batch.num_logits = 1;
    batch.sample_params = &params;
    std::vector<float> logits(100);
    SampledToken out;
    CHECK_THROWS_WITH(backend.sample(batch, 100, nullptr, logits.data(), &out), doctest::Contains("internal error"));
}
