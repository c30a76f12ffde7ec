#include "backends/cuda/weight_stager.h"

#include <algorithm>
#include <cstring>

#include "backends/cuda/quantize.h"
#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_scope.h"
#include "core/error.h"
#include "core/parallel.h"

namespace tinyllm {

namespace {

// Measured on an H200 machine with 16 cores, 90 MB tensors of f16: slabs of 4 / 8 / 16 MB load 27 / 36 / 39 GB/s where
// the link alone moves 43 / 51 / 52. More than 8 MB gains little and delays the small tensors of small models.
constexpr size_t kSlabBytes = size_t{8} << 20;
constexpr int kSlots = 3;  // one for each stage
constexpr int64_t kCopyGrain = int64_t{64} << 10;
constexpr unsigned long long kNoneBad = ~0ULL;

// One core copies 9 GB/s, 16 cores 80; the threads of the CPU backend are idle while a GPU model loads.
void copy_in_parallel(void* target, const void* source, size_t bytes) {
    parallel_for(static_cast<int64_t>(bytes), kCopyGrain, [&](int, int64_t begin, int64_t end) {
        std::memcpy(static_cast<char*>(target) + begin, static_cast<const char*>(source) + begin, end - begin);
    });
}

}  // namespace

WeightStager::WeightStager(const MemoryPool& pool, const CudaStream& cuda_stream, MemoryTracker& tracker)
    : cuda_stream_(cuda_stream),
      first_bad_host_(tracker, Component::Staging, 1, "first bad index, host"),
      first_bad_(pool, cuda_stream, 1, tracker, Component::Staging, "first bad index") {
    slots_.reserve(kSlots);
    for (int i = 0; i < kSlots; ++i)
        slots_.push_back({PinnedBuffer<std::byte>(tracker, Component::Staging, kSlabBytes, "pinned slab"),
                          CudaBuffer<std::byte>(pool, cuda_stream, kSlabBytes, tracker, Component::Staging, "slab"),
                          CudaEvent(EventTiming::Off), CudaEvent(EventTiming::Off)});
    // The copy stream may use the buffers only once their allocation has happened.
    cuda_stream_.synchronize();
}

WeightStager::~WeightStager() {
    // A load that threw may have left copies in flight, and the slabs are freed in the order of the other stream.
    if (device_accepts_calls(copy_stream_.device())) TL_CUDA_CHECK_NOTHROW(cudaStreamSynchronize(copy_stream_.get()));
}

int64_t WeightStager::load(const LinearWeight& weight, const RowMap& rows, const HostTensor& tensor,
                           const f16* scales) {
    const size_t row_bytes = static_cast<size_t>(tensor.cols) * dtype_size(tensor.dtype);
    const int64_t groups = scales == nullptr ? 0 : (tensor.cols + weight.group_length - 1) / weight.group_length;
    const size_t scale_row_bytes = groups * sizeof(f16);
    if (row_bytes + scale_row_bytes > kSlabBytes)
        fail(TL_STATUS_CHECKPOINT, "a weight row of ", tensor.cols, " inputs is too long to load: it takes ",
             row_bytes + scale_row_bytes, " bytes with its scales, at most ", kSlabBytes, " are possible");
    TL_CUDA_CHECK(cudaMemsetAsync(first_bad_.data(), 0xFF, sizeof kNoneBad, cuda_stream_.get()));
    const int64_t slab_rows = static_cast<int64_t>(kSlabBytes / (row_bytes + scale_row_bytes));
    for (int64_t row = 0, slab = 0; row < tensor.rows; row += slab_rows, ++slab) {
        Slot& slot = slots_[slab % kSlots];
        const int64_t num_rows = std::min(slab_rows, tensor.rows - row);
        stage(slot, static_cast<const char*>(tensor.data) + row * row_bytes, num_rows * row_bytes,
              scales == nullptr ? nullptr : scales + row * groups, num_rows * scale_row_bytes);
        slot.copied.block(cuda_stream_);
        const std::byte* const raw = slot.device.data();
        const f16* const raw_scales =
            scales == nullptr ? nullptr : reinterpret_cast<const f16*>(raw + num_rows * row_bytes);
        quantize_rows_cuda(cuda_stream_.get(), {raw, raw_scales, tensor.dtype, num_rows, tensor.cols, row}, weight,
                           rows, first_bad_.data());
        slot.quantized.record(cuda_stream_);
    }
    // Whoever brings the last row of a weight also fills the padding behind it.
    if (rows.start + (tensor.rows - 1) * rows.stride == weight.n - 1)
        zero_padding_rows_cuda(cuda_stream_.get(), weight);
    TL_CUDA_CHECK(cudaMemcpyAsync(first_bad_host_.data(), first_bad_.data(), sizeof kNoneBad, cudaMemcpyDeviceToHost,
                                  cuda_stream_.get()));
    cuda_stream_.synchronize();
    const unsigned long long first_bad = *first_bad_host_.data();
    return first_bad == kNoneBad ? -1 : static_cast<int64_t>(first_bad);
}

void WeightStager::stage(Slot& slot, const void* rows, size_t bytes, const void* scales, size_t scale_bytes) {
    slot.copied.synchronize();
    copy_in_parallel(slot.host.data(), rows, bytes);
    if (scale_bytes > 0) std::memcpy(slot.host.data() + bytes, scales, scale_bytes);
    slot.quantized.block(copy_stream_);
    TL_CUDA_CHECK(cudaMemcpyAsync(slot.device.data(), slot.host.data(), bytes + scale_bytes, cudaMemcpyHostToDevice,
                                  copy_stream_.get()));
    slot.copied.record(copy_stream_);
}

}  // namespace tinyllm
