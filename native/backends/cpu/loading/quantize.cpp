#include "backends/cpu/loading/quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "backends/cpu/loading/quantize_row.h"
#include "core/error.h"
#include "core/parallel.h"

namespace tinyllm::cpu {

namespace {

// Elements that are worth a thread.
constexpr int64_t kElementGrain = 1 << 16;

// Element i of an unaligned array of S, as a float.
template <typename S>
float element(const void* data, int64_t i) {
    S value;
    std::memcpy(&value, static_cast<const char*>(data) + i * static_cast<int64_t>(sizeof(S)), sizeof(S));
    return to_float(value);
}

f16 scale_for(float absmax) { return from_float<f16>(absmax / 127.0f); }

template <typename S>
bool quantize_row(const LinearWeight& weight, int64_t row, const SourceRow& source) {
    const void* data = source.data;
    const int64_t k = weight.k, groups = (k + weight.group_length - 1) / weight.group_length;
    int8_t* q = static_cast<int8_t*>(weight.data) + row * k;
    f16* scales = static_cast<f16*>(weight.scales) + row * groups;
    for (int64_t group = 0; group < groups; ++group) {
        const int64_t begin = group * weight.group_length, end = std::min(k, begin + weight.group_length);
        float absmax = 0;
        for (int64_t i = begin; i < end; ++i) {
            const float value = element<S>(data, i);
            if (!std::isfinite(value)) return false;
            absmax = std::max(absmax, std::abs(value));
        }
        scales[group] = scale_for(absmax);
        if (std::isinf(to_float(scales[group]))) return false;
        if (source.scales != nullptr) scales[group] = source.scales[group];
        const float scale = to_float(scales[group]);
        for (int64_t i = begin; i < end; ++i) {
            const float ratio = scale == 0 ? 0 : std::nearbyint(element<S>(data, i) / scale);
            q[i] = static_cast<int8_t>(std::clamp(ratio, -127.0f, 127.0f));
        }
    }
    return true;
}

template <typename S, typename T>
bool convert_row(const LinearWeight& weight, int64_t row, const void* data) {
    T* out = static_cast<T*>(weight.data) + row * weight.k;
    bool finite = true;
    for (int64_t i = 0; i < weight.k; ++i) {
        out[i] = from_float<T>(element<S>(data, i));
        finite &= std::isfinite(to_float(out[i]));
    }
    return finite;
}

template <typename S>
bool load_row(const LinearWeight& weight, int64_t row, const SourceRow& source) {
    if (weight.quantization == QuantizationType::W8A16) return quantize_row<S>(weight, row, source);
    switch (weight.dtype) {
        case DType::F16:
            return convert_row<S, f16>(weight, row, source.data);
        case DType::BF16:
            return convert_row<S, bf16>(weight, row, source.data);
        default:
            return convert_row<S, float>(weight, row, source.data);
    }
}

bool load_row(CpuIsa isa, const LinearWeight& weight, int64_t row, const SourceRow& source) {
    switch (isa) {
#if defined(__x86_64__)
        case CpuIsa::Avx512:
            return quantize_row_avx512(weight, row, source);
        case CpuIsa::Avx2:
            return quantize_row_avx2(weight, row, source);
#endif
        default:
            return quantize_row_portable(weight, row, source);
    }
}

// Whether the weight cannot hold a value (which may be NaN or Inf).
bool is_bad(const LinearWeight& weight, float value) {
    if (!std::isfinite(value)) return true;
    if (weight.quantization == QuantizationType::W8A16) return std::isinf(to_float(scale_for(std::abs(value))));
    switch (weight.dtype) {
        case DType::F16:
            return std::isinf(to_float(from_float<f16>(value)));
        case DType::BF16:
            return std::isinf(to_float(from_float<bf16>(value)));
        default:
            return false;
    }
}

// Index of the first bad element of a row that has one.
int64_t first_bad_element(const LinearWeight& weight, const SourceRow& source) {
    for (int64_t i = 0; i < weight.k; ++i) {
        const float value = source.dtype == DType::F16    ? element<f16>(source.data, i)
                            : source.dtype == DType::BF16 ? element<bf16>(source.data, i)
                                                          : element<float>(source.data, i);
        if (is_bad(weight, value)) return i;
    }
    TL_CHECK(false && "a row was refused that has no bad element");
    return 0;
}

}  // namespace

bool quantize_row_portable(const LinearWeight& weight, int64_t row, const SourceRow& source) {
    switch (source.dtype) {
        case DType::F16:
            return load_row<f16>(weight, row, source);
        case DType::BF16:
            return load_row<bf16>(weight, row, source);
        default:
            return load_row<float>(weight, row, source);
    }
}

int64_t quantize_linear(CpuIsa isa, const LinearWeight& weight, const RowMap& rows, const HostTensor& tensor,
                        const f16* scales) {
    TL_CHECK(tensor.cols == weight.k);
    TL_CHECK(tensor.rows == 0 || rows.start + (tensor.rows - 1) * rows.stride < weight.n);
    const int64_t row_bytes = tensor.cols * static_cast<int64_t>(dtype_size(tensor.dtype));
    const int64_t groups = scales == nullptr ? 0 : (weight.k + weight.group_length - 1) / weight.group_length;
    const auto source_row = [&](int64_t row) {
        return SourceRow{tensor.dtype, static_cast<const char*>(tensor.data) + row * row_bytes,
                         scales == nullptr ? nullptr : scales + row * groups};
    };
    std::atomic<int64_t> bad_row{tensor.rows};  // the first that is known
    const int64_t grain = std::max<int64_t>(1, kElementGrain / tensor.cols);
    parallel_for(tensor.rows, grain, [&](int, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end && row < bad_row.load(std::memory_order_relaxed); ++row) {
            if (load_row(isa, weight, rows.start + row * rows.stride, source_row(row))) continue;
            int64_t known = bad_row.load();
            while (row < known && !bad_row.compare_exchange_weak(known, row)) {
            }
        }
    });
    const int64_t row = bad_row.load();
    if (row == tensor.rows) return -1;
    return row * tensor.cols + first_bad_element(weight, source_row(row));
}

}  // namespace tinyllm::cpu
