// TestRun: one device opened for one test hook, with poisoned and guarded memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "memory/tracker.h"
#include "ops/backend.h"
#include "ops/model_shapes.h"
#include "testing/testing.h"

namespace tinyllm::testing {

// Calls `body` with a value of the activation type that `dtype` names.
template <typename Body>
void with_type(DType dtype, Body&& body) {
    switch (dtype) {
        case DType::F32:
            return body(float{});
        case DType::F16:
            return body(f16{});
        case DType::BF16:
            return body(bf16{});
        default:
            fail(TL_STATUS_INVALID_ARGUMENT, "dtype ", dtype_name(dtype), " is not an activation type");
    }
}

// A checkpoint tensor and where its rows land in a fused weight.
struct LinearPart {
    RowMap rows;
    tl_test_tensor tensor;
};

class TestRun {
public:
    // Opens the device of `target` and binds the scratch that `shapes`, those of the op, need for steps like `batch`.
    TestRun(const tl_test_target& target, const ModelShapes& shapes, const tl_test_batch& batch);

    Backend& backend() { return *backend_; }
    // Bytes of `count` elements of T.
    size_t bytes(int64_t count) const { return static_cast<size_t>(count) * dtype_size(dtype_); }

    // Device memory filled with 0xFF between two guard zones. Lives as long as this object.
    void* poisoned(size_t bytes, const std::string& name);
    // Device memory that holds a copy of host memory.
    template <typename U>
    U* uploaded(const U* values, int64_t count, const std::string& name) {
        return static_cast<U*>(uploaded_bytes(values, static_cast<size_t>(count) * sizeof(U), name));
    }
    // Device memory that holds float values rounded to T.
    void* uploaded_as_t(const float* values, int64_t count, const std::string& name);

    // The memory of a linear layer as the engine prepares it, before any row is loaded.
    LinearWeight empty_linear(int32_t n, int32_t k, const std::string& name);
    // Backend::load_linear; returns what it returns.
    int64_t load_part(const LinearWeight& weight, const LinearPart& part, const LinearLoad& load = {});
    // A linear layer of `n` rows with its parts loaded. Throws Checkpoint errors for values that load_linear refuses.
    LinearWeight linear(int32_t n, const std::vector<LinearPart>& parts, const std::string& name);
    NormWeight norm(const tl_test_norm& norm, int32_t features, const std::string& name);
    RopeParams rope(const tl_test_rope& rope);
    const StepBatch& batch() const { return batch_; }
    // Adds the rows whose logits are wanted to batch().
    void set_logits_rows(const int32_t* rows, int32_t count);
    // Adds how the tokens of those rows are chosen; `greedy` as in StepBatch.
    void set_sample_params(const SampleParams* params, bool greedy);

    template <typename U>
    void download(U* target, const U* source, int64_t count) {
        backend_->download(target, source, static_cast<size_t>(count) * sizeof(U));
    }
    // Downloads `rows` x `cols` values of T, widened to float, from rows that lie `row_stride` elements apart.
    void download_from_t(float* target, const void* source, int64_t rows, int64_t cols, int64_t row_stride);

    // Waits for the device; an Internal error if the op wrote outside a buffer.
    void finish();

private:
    struct Guarded {
        AllocationPtr memory;
        std::string name;
    };

    void* uploaded_bytes(const void* values, size_t bytes, const std::string& name);
    void upload_batch(const tl_test_batch& batch);

    MemoryTracker tracker_;  // outlives the backend and all buffers
    std::unique_ptr<Backend> backend_;
    std::vector<Guarded> buffers_;
    tl_test_target target_;
    DType dtype_;
    StepBatch batch_;
};

}  // namespace tinyllm::testing
