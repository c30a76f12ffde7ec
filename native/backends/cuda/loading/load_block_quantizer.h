// LoadBlockQuantizer: what the GPU does with a checkpoint tensor whose rows arrive load block by load block.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/cuda/loading/quantize.h"
#include "backends/cuda/runtime/cuda_buffer.h"
#include "backends/cuda/runtime/host_transfer.h"

namespace tinyllm::cuda {

// The part of Backend::load_linear after the rows are in device memory: chooses scales, quantises, sums up the
// moments that are asked for. The arrays of a LinearLoad cross at the beginning and at the end of a tensor. Keeps its
// buffers from tensor to tensor.
class LoadBlockQuantizer {
public:
    // All memory counts as Component::Staging of `tracker`, which must outlive this object, as must the others. Throws
    // CudaError.
    LoadBlockQuantizer(const MemoryPool& pool, const CudaStream& cuda_stream, HostTransfer& transfer,
                       MemoryTracker& tracker);

    // Begins a tensor of [num_rows, cols]. Throws CudaError, as do the others.
    void begin(const LinearWeight& weight, const RowMap& rows, int64_t num_rows, int64_t cols, const LinearLoad& load);
    // Enqueues the work for the next rows of the tensor; `raw.scales` is not looked at.
    void add(RawRows raw);
    // Ends the tensor: writes the moments, waits for the stream, and returns what load_linear returns.
    int64_t finish();

private:
    // Makes `buffer` hold at least `size` elements; contents are lost.
    template <typename T>
    void reserve(CudaBuffer<T>& buffer, int64_t size, const char* name);
    // A copy of `values` in `buffer`, or null for null.
    const float* uploaded(CudaBuffer<float>& buffer, const float* values, const char* name);

    const MemoryPool& pool_;
    const CudaStream& cuda_stream_;
    HostTransfer& transfer_;
    MemoryTracker& tracker_;
    CudaBuffer<unsigned long long> first_bad_;
    CudaBuffer<f16> scales_;  // of one load block
    CudaBuffer<float> importance_, input_moments_, output_moments_;
    CudaBuffer<double> column_sums_;

    // Of the tensor that was begun.
    LinearWeight weight_;
    RowMap rows_;
    int64_t num_rows_ = 0, cols_ = 0;
    LinearLoad load_;  // its arrays are the host's
    const float* device_importance_ = nullptr;
};

}  // namespace tinyllm::cuda
