#include "backends/cuda/loading/load_block_quantizer.h"

#include "backends/cuda/loading/moments.h"
#include "backends/cuda/loading/scale_search.h"
#include "backends/cuda/runtime/cuda_check.h"

namespace tinyllm::cuda {

namespace {
constexpr unsigned long long kNoneBad = ~0ULL;
}  // namespace

LoadBlockQuantizer::LoadBlockQuantizer(const MemoryPool& pool, const CudaStream& cuda_stream, HostTransfer& transfer,
                                       MemoryTracker& tracker)
    : pool_(pool), cuda_stream_(cuda_stream), transfer_(transfer), tracker_(tracker) {
    reserve(first_bad_, 1, "first bad index");
}

template <typename T>
void LoadBlockQuantizer::reserve(CudaBuffer<T>& buffer, int64_t size, const char* name) {
    if (static_cast<int64_t>(buffer.size()) >= size) return;
    buffer = CudaBuffer<T>();  // first, so that not both are held at a time
    buffer = CudaBuffer<T>(pool_, cuda_stream_, size, tracker_, Component::Staging, name);
}

const float* LoadBlockQuantizer::uploaded(CudaBuffer<float>& buffer, const float* values, const char* name) {
    if (values == nullptr) return nullptr;
    reserve(buffer, cols_, name);
    transfer_.upload(buffer.data(), values, cols_ * sizeof(float));
    return buffer.data();
}

void LoadBlockQuantizer::begin(const LinearWeight& weight, const RowMap& rows, int64_t num_rows, int64_t cols,
                               const LinearLoad& load) {
    weight_ = weight;
    rows_ = rows;
    num_rows_ = num_rows;
    cols_ = cols;
    load_ = load;
    load_.search_scales = load.search_scales && weight.quantization == QuantizationType::W8A16;
    TL_CUDA_CHECK(cudaMemsetAsync(first_bad_.data(), 0xFF, sizeof kNoneBad, cuda_stream_.get()));
    device_importance_ = load_.search_scales ? uploaded(importance_, load.importance, "importance") : nullptr;
    if (load.output_moments != nullptr) {
        uploaded(input_moments_, load.input_moments, "input moments");
        reserve(output_moments_, num_rows, "output moments");
    }
    if (load.column_moments != nullptr) {
        reserve(column_sums_, cols, "column sums");
        TL_CUDA_CHECK(cudaMemsetAsync(column_sums_.data(), 0, cols * sizeof(double), cuda_stream_.get()));
    }
}

void LoadBlockQuantizer::add(RawRows raw) {
    const cudaStream_t cuda_stream = cuda_stream_.get();
    raw.scales = nullptr;
    if (load_.search_scales) {
        reserve(scales_, raw.num_rows * ((cols_ + weight_.group_length - 1) / weight_.group_length),
                "load block scales");
        choose_scales(cuda_stream, raw, weight_.group_length, device_importance_, scales_.data());
        raw.scales = scales_.data();
    }
    quantize_rows(cuda_stream, raw, weight_, rows_, first_bad_.data());
    if (load_.output_moments != nullptr)
        output_moments(cuda_stream, raw, input_moments_.data(), output_moments_.data() + raw.first_row);
    if (load_.column_moments != nullptr) add_column_squares(cuda_stream, raw, column_sums_.data());
}

int64_t LoadBlockQuantizer::finish() {
    // Whoever brings the last row of a weight also fills the padding behind it.
    if (rows_.start + (num_rows_ - 1) * rows_.stride == weight_.n - 1) zero_padding_rows(cuda_stream_.get(), weight_);
    if (load_.output_moments != nullptr)
        transfer_.download(load_.output_moments, output_moments_.data(), num_rows_ * sizeof(float));
    if (load_.column_moments != nullptr) {
        std::vector<double> sums(cols_);
        transfer_.download(sums.data(), column_sums_.data(), cols_ * sizeof(double));
        for (int64_t k = 0; k < cols_; ++k)
            load_.column_moments[k] = static_cast<float>(sums[k] / static_cast<double>(num_rows_));
    }
    unsigned long long first_bad = kNoneBad;
    transfer_.download(&first_bad, first_bad_.data(), sizeof first_bad);
    return first_bad == kNoneBad ? -1 : static_cast<int64_t>(first_bad);
}

}  // namespace tinyllm::cuda
