// Made-up weights: each thread makes eight from one random number and puts them where the layout wants them. Writes
// device memory once.
#include "backends/cuda/loading/random_weights.h"

#include "backends/cuda/device/convert.cuh"
#include "backends/cuda/runtime/launch.h"
#include "quantization/layout.h"
#include "quantization/random_weights.h"

namespace tinyllm::cuda {

namespace {

constexpr int kThreads = 256;

__device__ void store(int8_t* target, int32_t value, float) { *target = static_cast<int8_t>(value); }
template <typename T>
__device__ void store(T* target, int32_t value, float scale) {
    *target = round_to<T>(static_cast<float>(value) * scale);
}

// PRECOND: a thread for each kRandomBlock weights of [n_padded, k_padded].
template <typename T>
__global__ void fill_weights_kernel(T* weights, int32_t n, int32_t k, int64_t n_padded, int64_t k_padded, float scale,
                                    uint64_t seed) {
    const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    const int64_t padded_blocks = k_padded / kRandomBlock;
    const int64_t row = index / padded_blocks, block = index % padded_blocks;
    if (row >= n_padded) return;
    const uint64_t bits = random_bits(seed, row, (k + kRandomBlock - 1) / kRandomBlock, block);
    for (int32_t i = 0; i < kRandomBlock; ++i) {
        const int32_t col = static_cast<int32_t>(block) * kRandomBlock + i;
        const int32_t value = row < n && col < k ? random_weight(bits, i) : 0;
        store(weights + row * k_padded + cuda_packed_col(col), value, scale);
    }
}

// scales: [groups, n_padded]; `count` elements in all.
__global__ void fill_scales_kernel(__half* scales, int64_t count, int32_t n, int64_t n_padded, __half scale) {
    const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (index < count) scales[index] = index % n_padded < n ? scale : __half{};
}

template <typename T>
void launch_weights(cudaStream_t cuda_stream, const LinearWeight& weight, const LinearLayout& layout, float scale,
                    uint64_t seed) {
    const unsigned blocks = ceil_div(layout.n_padded * layout.k_padded / kRandomBlock, kThreads);
    fill_weights_kernel<T><<<blocks, kThreads, 0, cuda_stream>>>(static_cast<T*>(weight.data), weight.n, weight.k,
                                                                 layout.n_padded, layout.k_padded, scale, seed);
    TL_CUDA_CHECK_LAUNCH("fill_weights_kernel");
}

}  // namespace

void fill_random(cudaStream_t cuda_stream, const LinearWeight& weight, uint64_t seed) {
    static_assert(kCudaColAlign % kRandomBlock == 0);
    const LinearLayout layout =
        linear_layout(DeviceKind::Cuda, weight.quantization, weight.dtype, weight.n, weight.k, weight.group_length);
    const f16 scale = random_weight_scale(weight.k);
    if (weight.quantization == QuantizationType::NONE) {
        with_activation(weight.dtype, [&](auto type) {
            launch_weights<decltype(type)>(cuda_stream, weight, layout, to_float(scale), seed);
        });
        return;
    }
    launch_weights<int8_t>(cuda_stream, weight, layout, to_float(scale), seed);
    const int64_t count = layout.groups * layout.n_padded;
    fill_scales_kernel<<<ceil_div(count, kThreads), kThreads, 0, cuda_stream>>>(
        static_cast<__half*>(weight.scales), count, weight.n, layout.n_padded, __half(__half_raw{scale.bits}));
    TL_CUDA_CHECK_LAUNCH("fill_scales_kernel");
}

}  // namespace tinyllm::cuda
