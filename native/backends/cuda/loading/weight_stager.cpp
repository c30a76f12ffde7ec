#include "backends/cuda/loading/weight_stager.h"

#include <algorithm>
#include <cstring>

#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/device_scope.h"
#include "backends/cuda/runtime/staging_bytes.h"
#include "core/error.h"
#include "core/parallel.h"

namespace tinyllm::cuda {

namespace {

constexpr int64_t kCopyGrain = int64_t{64} << 10;

// One core copies 9 GB/s, 16 cores 80; the threads of the CPU backend are idle while a GPU model loads.
void copy_in_parallel(void* target, const void* source, size_t bytes) {
    parallel_for(static_cast<int64_t>(bytes), kCopyGrain, [&](int, int64_t begin, int64_t end) {
        std::memcpy(static_cast<char*>(target) + begin, static_cast<const char*>(source) + begin, end - begin);
    });
}

}  // namespace

WeightStager::WeightStager(const MemoryPool& pool, const CudaStream& cuda_stream, HostTransfer& transfer,
                           MemoryTracker& tracker)
    : cuda_stream_(cuda_stream), quantizer_(pool, cuda_stream, transfer, tracker) {
    slots_.reserve(kLoadBlocks);
    for (int i = 0; i < kLoadBlocks; ++i)
        slots_.push_back(
            {PinnedBuffer<std::byte>(tracker, Component::Staging, kLoadBlockBytes, "pinned slab"),
             CudaBuffer<std::byte>(pool, cuda_stream, kLoadBlockBytes, tracker, Component::Staging, "slab"),
             CudaEvent(EventTiming::Off), CudaEvent(EventTiming::Off)});
    // The copy stream may use the buffers only once their allocation has happened.
    cuda_stream_.synchronize();
}

WeightStager::~WeightStager() {
    // A load that threw may have left copies in flight, and the slabs are freed in the order of the other stream.
    release_on(copy_stream_.device(), [this] { TL_CUDA_CHECK_NOTHROW(cudaStreamSynchronize(copy_stream_.get())); });
}

int64_t WeightStager::load(const LinearWeight& weight, const RowMap& rows, const HostTensor& tensor,
                           const LinearLoad& load) {
    const size_t row_bytes = static_cast<size_t>(tensor.cols) * dtype_size(tensor.dtype);
    if (row_bytes > kLoadBlockBytes)
        fail(TL_STATUS_CHECKPOINT, "a weight row of ", tensor.cols, " inputs is too long to load: it takes ", row_bytes,
             " bytes, at most ", kLoadBlockBytes, " are possible");
    quantizer_.begin(weight, rows, tensor.rows, tensor.cols, load);
    const int64_t slab_rows = static_cast<int64_t>(kLoadBlockBytes / row_bytes);
    for (int64_t row = 0, slab = 0; row < tensor.rows; row += slab_rows, ++slab) {
        Slot& slot = slots_[slab % kLoadBlocks];
        const int64_t num_rows = std::min(slab_rows, tensor.rows - row);
        stage(slot, static_cast<const char*>(tensor.data) + row * row_bytes, num_rows * row_bytes);
        slot.copied.block(cuda_stream_);
        quantizer_.add({slot.device.data(), nullptr, tensor.dtype, num_rows, tensor.cols, row});
        slot.quantized.record(cuda_stream_);
    }
    return quantizer_.finish();
}

void WeightStager::stage(Slot& slot, const void* rows, size_t bytes) {
    slot.copied.synchronize();
    copy_in_parallel(slot.host.data(), rows, bytes);
    slot.quantized.block(copy_stream_);
    TL_CUDA_CHECK(
        cudaMemcpyAsync(slot.device.data(), slot.host.data(), bytes, cudaMemcpyHostToDevice, copy_stream_.get()));
    slot.copied.record(copy_stream_);
}

}  // namespace tinyllm::cuda
