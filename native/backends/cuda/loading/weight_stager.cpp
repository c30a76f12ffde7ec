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
    load_blocks_.reserve(kLoadBlocks);
    for (int i = 0; i < kLoadBlocks; ++i)
        load_blocks_.push_back(
            {PinnedBuffer<std::byte>(tracker, Component::Staging, kLoadBlockBytes, "pinned load block"),
             CudaBuffer<std::byte>(pool, cuda_stream, kLoadBlockBytes, tracker, Component::Staging, "load block"),
             CudaEvent(EventTiming::Off), CudaEvent(EventTiming::Off)});
    // The copy stream may use the buffers only once their allocation has happened.
    cuda_stream_.synchronize();
}

WeightStager::~WeightStager() {
    // A load that threw may have left copies in flight, and the load blocks are freed in the order of the other stream.
    release_on(copy_stream_.device(), [this] { TL_CUDA_CHECK_NOTHROW(cudaStreamSynchronize(copy_stream_.get())); });
}

int64_t WeightStager::load(const LinearWeight& weight, const RowMap& rows, const HostTensor& tensor,
                           const LinearLoad& load) {
    const size_t row_bytes = static_cast<size_t>(tensor.cols) * dtype_size(tensor.dtype);
    if (row_bytes > kLoadBlockBytes)
        fail(TL_STATUS_CHECKPOINT, "a weight row of ", tensor.cols, " inputs is too long to load: it takes ", row_bytes,
             " bytes, at most ", kLoadBlockBytes, " are possible");
    quantizer_.begin(weight, rows, tensor.rows, tensor.cols, load);
    const int64_t block_rows = static_cast<int64_t>(kLoadBlockBytes / row_bytes);
    for (int64_t row = 0, index = 0; row < tensor.rows; row += block_rows, ++index) {
        LoadBlock& load_block = load_blocks_[index % kLoadBlocks];
        const int64_t num_rows = std::min(block_rows, tensor.rows - row);
        stage(load_block, static_cast<const char*>(tensor.data) + row * row_bytes, num_rows * row_bytes);
        load_block.copied.block(cuda_stream_);
        quantizer_.add({load_block.device.data(), nullptr, tensor.dtype, num_rows, tensor.cols, row});
        load_block.quantized.record(cuda_stream_);
    }
    return quantizer_.finish();
}

void WeightStager::stage(LoadBlock& load_block, const void* rows, size_t bytes) {
    load_block.copied.synchronize();
    copy_in_parallel(load_block.host.data(), rows, bytes);
    load_block.quantized.block(copy_stream_);
    TL_CUDA_CHECK(cudaMemcpyAsync(load_block.device.data(), load_block.host.data(), bytes, cudaMemcpyHostToDevice,
                                  copy_stream_.get()));
    load_block.copied.record(copy_stream_);
}

}  // namespace tinyllm::cuda
