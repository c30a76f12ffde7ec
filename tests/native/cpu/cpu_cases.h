// What the tests of the CPU backend share: instruction sets, random values, arrays of an activation type.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "backends/cpu/simd/isa.h"
#include "core/dtype.h"

namespace tinyllm::test {

using namespace cpu;  // what these tests are of

inline constexpr DType kActivations[] = {DType::F32, DType::F16, DType::BF16};

// Those that this machine has, from the portable reference up.
inline std::vector<CpuIsa> available_isas() {
    std::vector<CpuIsa> out;
    for (CpuIsa isa : {CpuIsa::Portable, CpuIsa::Avx2, CpuIsa::Avx512})
        if (isa <= detected_isa()) out.push_back(isa);
    return out;
}

inline std::vector<float> random_floats(int64_t count, uint32_t seed, float spread = 1.0f) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0.0f, spread);
    std::vector<float> out(count);
    for (float& x : out) x = normal(engine);
    return out;
}

// An array of T on the heap. Elements past its end are not allocated, so that AddressSanitizer sees reads of them.
class Array {
public:
    Array(DType dtype, const std::vector<float>& values) : dtype_(dtype), bytes_(values.size() * dtype_size(dtype)) {
        for (size_t i = 0; i < values.size(); ++i) set(static_cast<int64_t>(i), values[i]);
    }
    Array(DType dtype, int64_t count) : Array(dtype, std::vector<float>(count)) {}

    void set(int64_t i, float value) {
        if (dtype_ == DType::F32) store(i, value);
        if (dtype_ == DType::F16) store(i, from_float<f16>(value));
        if (dtype_ == DType::BF16) store(i, from_float<bf16>(value));
    }
    float at(int64_t i) const {
        if (dtype_ == DType::F32) return load<float>(i);
        return dtype_ == DType::F16 ? to_float(load<f16>(i)) : to_float(load<bf16>(i));
    }
    void* data() { return bytes_.data(); }
    const void* data() const { return bytes_.data(); }
    void* at_element(int64_t i) { return bytes_.data() + i * static_cast<int64_t>(dtype_size(dtype_)); }
    DType dtype() const { return dtype_; }
    bool same_bits(const Array& other) const { return bytes_ == other.bytes_; }

private:
    template <typename T>
    void store(int64_t i, T value) {
        std::memcpy(bytes_.data() + i * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
    }
    template <typename T>
    T load(int64_t i) const {
        T value;
        std::memcpy(&value, bytes_.data() + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
        return value;
    }

    DType dtype_;
    std::vector<unsigned char> bytes_;
};

}  // namespace tinyllm::test
