// Sizes of the buffers that data passes through on its way to and from a GPU. No CUDA headers: the planner shows them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tinyllm::cuda {

// WeightStager: load blocks, each a pinned and a device buffer, one for each stage. Measured on an H200 machine with 16
// cores, 90 MB tensors of f16: load blocks of 4 / 8 / 16 MB load 27 / 36 / 39 GB/s where the link alone moves 43 / 51
// / 52. More than 8 MB gains little and delays the small tensors of small models.
constexpr size_t kLoadBlockBytes = size_t{8} << 20;
constexpr int kLoadBlocks = 3;

// HostTransfer. A step's descriptors take some kilobytes; logits for a whole prompt, the one large download, pass in
// pieces.
constexpr size_t kUploadBytes = size_t{1} << 20;
constexpr size_t kDownloadBytes = size_t{4} << 20;

// MemoryPool: what the driver gives a pool at a time (measured on driver 580; undocumented).
constexpr uint64_t kPoolStep = uint64_t{32} << 20;

}  // namespace tinyllm::cuda
