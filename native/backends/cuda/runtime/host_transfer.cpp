#include "backends/cuda/runtime/host_transfer.h"

#include <algorithm>
#include <cstring>

#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/staging_bytes.h"

namespace tinyllm::cuda {

namespace {

constexpr size_t kUploadAlign = 16;

}  // namespace

HostTransfer::HostTransfer(const CudaStream& cuda_stream, MemoryTracker& tracker)
    : cuda_stream_(cuda_stream),
      upload_ring_(tracker, Component::Workspace, kUploadBytes, "pinned upload ring"),
      download_(tracker, Component::Workspace, kDownloadBytes, "pinned download buffer") {}

void HostTransfer::upload(void* target, const void* source, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        // Every wait for the stream empties the ring, and a step waits once, so it hardly ever fills up.
        if (upload_used_ == kUploadBytes) synchronize();
        const size_t piece = std::min(bytes - done, kUploadBytes - upload_used_);
        std::byte* staged = upload_ring_.data() + upload_used_;
        std::memcpy(staged, static_cast<const char*>(source) + done, piece);
        TL_CUDA_CHECK(cudaMemcpyAsync(static_cast<char*>(target) + done, staged, piece, cudaMemcpyHostToDevice,
                                      cuda_stream_.get()));
        upload_used_ = std::min(kUploadBytes, (upload_used_ + piece + kUploadAlign - 1) / kUploadAlign * kUploadAlign);
        done += piece;
    }
}

void HostTransfer::download(void* target, const void* source, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        const size_t piece = std::min(bytes - done, kDownloadBytes);
        TL_CUDA_CHECK(cudaMemcpyAsync(download_.data(), static_cast<const char*>(source) + done, piece,
                                      cudaMemcpyDeviceToHost, cuda_stream_.get()));
        synchronize();
        std::memcpy(static_cast<char*>(target) + done, download_.data(), piece);
        done += piece;
    }
}

void HostTransfer::synchronize() {
    cuda_stream_.synchronize();
    upload_used_ = 0;
}

}  // namespace tinyllm::cuda
