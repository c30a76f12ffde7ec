// The linear layer in plain C++: the reference for the vector versions, and what other processors run.
#include <algorithm>
#include <cmath>

#include "backends/cpu/linear/linear_task.h"

namespace tinyllm::cpu {

namespace {

// The lanes of a sum, so that a compiler can use vectors without changing the order of additions.
constexpr int kLanes = 8;

// Row n of the weights as floats.
template <typename T>
void dequantise_row(const LinearWeight& weight, int64_t n, float* out) {
    const int64_t k = weight.k;
    if (weight.quantization == QuantizationType::NONE) {
        const T* row = static_cast<const T*>(weight.data) + n * k;
        for (int64_t i = 0; i < k; ++i) out[i] = to_float(row[i]);
        return;
    }
    const int64_t groups = (k + weight.group_length - 1) / weight.group_length;
    const int8_t* row = static_cast<const int8_t*>(weight.data) + n * k;
    const f16* scales = static_cast<const f16*>(weight.scales) + n * groups;
    for (int64_t group = 0; group < groups; ++group) {
        const float scale = to_float(scales[group]);
        const int64_t end = std::min(k, (group + 1) * weight.group_length);
        for (int64_t i = group * weight.group_length; i < end; ++i) out[i] = static_cast<float>(row[i]) * scale;
    }
}

float dot(const float* a, const float* b, int64_t k) {
    float lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes)
        for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
    float sum = 0;
    for (; i < k; ++i) sum += a[i] * b[i];
    for (const float lane : lanes) sum += lane;
    return sum;
}

float silu(float x) { return x / (1.0f + std::exp(-x)); }

// Puts y, the sum of output n, where it belongs. Outputs of a row come in ascending order; of a pair of gate and up the
// gate waits in `gate`.
template <typename T>
void finish(const LinearOutput& out, int64_t row, int64_t n, float y, float& gate) {
    const int64_t at = row * out.row_stride + n;
    T* data = static_cast<T*>(out.data);
    switch (out.kind) {
        case LinearOutput::Kind::Store:
            data[at] = from_float<T>(y);
            break;
        case LinearOutput::Kind::AddTo:
            data[at] = from_float<T>(to_float(data[at]) + y);
            break;
        case LinearOutput::Kind::StoreFloat:
            static_cast<float*>(out.data)[at] = y;
            break;
        case LinearOutput::Kind::SiluMul:
            if (n % 2 == 0)
                gate = y;
            else
                data[row * out.row_stride + n / 2] = from_float<T>(silu(gate) * y);
            break;
    }
}

template <typename T>
void run(const LinearTask& task) {
    const LinearWeight& weight = *task.weight;
    const int64_t k = weight.k;
    constexpr int64_t kRows = kDirectRows - 1;
    float* x_floats = task.scratch;            // [kRows, k]
    float* weight_row = x_floats + kRows * k;  // [k]
    for (int64_t first = 0; first < task.rows; first += kRows) {
        const int64_t rows = std::min(kRows, task.rows - first);
        const T* x = static_cast<const T*>(task.x) + first * k;
        for (int64_t i = 0; i < rows * k; ++i) x_floats[i] = to_float(x[i]);
        float gates[kRows] = {};
        for (int64_t n = task.n_begin; n < task.n_end; ++n) {
            dequantise_row<T>(weight, n, weight_row);
            const float bias = weight.bias != nullptr ? weight.bias[n] : 0.0f;
            for (int64_t row = 0; row < rows; ++row)
                finish<T>(task.out, first + row, n, bias + dot(x_floats + row * k, weight_row, k), gates[row]);
        }
    }
}

}  // namespace

void linear_task_portable(const LinearTask& task) {
    switch (task.activation) {
        case DType::F16:
            return run<f16>(task);
        case DType::BF16:
            return run<bf16>(task);
        default:
            return run<float>(task);
    }
}

}  // namespace tinyllm::cpu
