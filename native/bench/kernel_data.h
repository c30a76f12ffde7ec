// What single operations run on in a benchmark: made-up weights, activations, KV cache and steps, on the device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/options.h"
#include "config/engine_config.h"
#include "memory/tracker.h"
#include "model/decoder_spec.h"
#include "ops/backend.h"

namespace tinyllm::bench {

// Blocks of data that are read in turn, so many that the one that is read next has left the caches. All are freed with
// this object.
struct Rotation {
    std::vector<AllocationPtr> memory;
    size_t copies = 0;
};

struct RotatedWeight : Rotation {
    std::vector<LinearWeight> weights;  // [copies]
};

struct RotatedCache : Rotation {
    std::vector<KvLayer> layers;  // [copies]
};

// The rows of a step. `memory` holds what `batch` points to.
struct KernelStep {
    AllocationPtr memory;
    StepBatch batch;
    int64_t num_pages = 0;  // of the KV cache
};

class KernelData {
public:
    static constexpr size_t kMaxCopies = 2048;  // of one rotation

    // Opens the device of `options`, with scratch for steps of its largest batch.
    explicit KernelData(const Options& options);

    // The most rows of any step: the longest of the options' prompts and batches.
    int32_t max_rows() const { return max_rows_; }

    const DecoderSpec& model() const { return model_; }
    Backend& backend() { return *backend_; }

    AllocationPtr allocate(size_t bytes);
    // Host data, copied.
    template <typename T>
    AllocationPtr uploaded(const std::vector<T>& values) {
        AllocationPtr block = allocate(values.size() * sizeof(T));
        backend_->upload(block->data(), values.data(), values.size() * sizeof(T));
        return block;
    }
    // Random values in [-1, 1) of the activation type: [max_rows, width].
    AllocationPtr activations(int64_t width);
    // Random logits: float [rows, vocab_size] in each block of memory.
    Rotation logits(int32_t rows);
    RotatedWeight weight(const MatrixSpec& spec);
    // One layer of a KV cache of `num_pages` pages; at most `most_copies`.
    RotatedCache cache(int64_t num_pages, size_t most_copies);

    // Decode: one row of each of `rows` sequences that are `kv_len` tokens long. Its logits are wanted.
    KernelStep decode_step(int32_t rows, int32_t kv_len);
    // Prefill: the first `rows` tokens of one sequence.
    KernelStep prefill_step(int32_t rows);

private:
    KernelStep step(Phase phase, const std::vector<int32_t>& positions, const std::vector<int32_t>& slots,
                    const std::vector<int32_t>& segment_starts);

    const Options& options_;
    const DecoderSpec model_;
    const int32_t max_rows_;
    EngineConfig engine_;
    MemoryTracker tracker_;  // before everything that it tracks
    std::unique_ptr<Backend> backend_;
    AllocationPtr scratch_;
};

}  // namespace tinyllm::bench
