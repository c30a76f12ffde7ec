// StepBuffers: what one step must know on the device, gathered on the host and sent in one copy.
//
// One block of bytes with fixed offsets, so that a captured graph can keep reading it:
//   sample_params [samples] | token_ids, positions, slots, rope_lens [rows] | segment_starts [segments + tiles] |
//   logits_rows [samples] | ascending [ascending]
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "ops/backend.h"
#include "ops/ops.h"
#include "ops/step_shape.h"

namespace tinyllm {

struct EngineConfig;

struct StepCapacity {
    int32_t rows;
    int32_t segments;  // segments of all tiles together
    int32_t tiles;
    int32_t samples;    // tokens sampled in the step
    int32_t ascending;  // length of ascending_rows()
};
StepCapacity decode_capacity(const EngineConfig& engine);
StepCapacity prefill_capacity(const EngineConfig& engine, const StepShape& shape);

// One row of a step as the scheduler describes it.
struct StepRow {
    int32_t token_id;
    int32_t position;
    int32_t slot;
    int32_t rope_len;
};

class StepBuffers {
public:
    // Host memory for a step of `capacity`; `device` is the planned block of bytes(capacity) bytes.
    StepBuffers(const StepCapacity& capacity, void* device);

    static int64_t bytes(const StepCapacity& capacity);

    void clear();
    // Rows of one sequence are pushed in order; a new segment begins with each push_segment().
    void push_segment() { starts_new_segment_ = true; }
    void push_row(const StepRow& row, int32_t tile_rows);
    // Wants the logits of the last pushed row, sampled with `params`.
    void push_sample(const SampleParams& params);
    // A decode row that does nothing (slot -1): captured steps exist for a few row counts only.
    void push_padding();

    int32_t num_rows() const { return static_cast<int32_t>(token_ids_.size()); }
    int32_t num_samples() const { return num_samples_; }  // without padding

    // Sends everything; the batches below are valid until the next upload.
    void upload(Backend& backend);
    // One batch per tile: `common` with the tile's rows and segments filled in.
    std::vector<StepBatch> tiles(const StepBatch& common) const;
    // `common` with all rows filled in, as one batch without segments: for embedding, logits and sampling.
    StepBatch whole(const StepBatch& common) const;
    // 0, 1, 2, ... on the device, as many as a step has rows.
    const int32_t* ascending_rows() const { return device_at<int32_t>(offsets_.ascending); }

private:
    struct Tile {
        int32_t first_row;
        int32_t num_rows;
        int32_t first_start;  // index into segment_starts_
        int32_t num_segments;
        int32_t max_segment_rows;
    };
    struct Offsets {
        int64_t token_ids, positions, slots, rope_lens, segment_starts, logits_rows, ascending, total;
    };
    static Offsets offsets(const StepCapacity& capacity);
    template <typename T>
    void put(int64_t offset, const std::vector<T>& list) {
        if (!list.empty()) std::memcpy(staging_.data() + offset, list.data(), list.size() * sizeof(T));
    }
    template <typename T>
    const T* device_at(int64_t offset) const {
        return reinterpret_cast<const T*>(static_cast<const char*>(device_) + offset);
    }

    StepCapacity capacity_;
    Offsets offsets_;
    void* device_;
    std::vector<char> staging_;
    std::vector<int32_t> token_ids_, positions_, slots_, rope_lens_, segment_starts_, logits_rows_;
    std::vector<SampleParams> sample_params_;
    std::vector<Tile> tiles_;
    int32_t num_samples_ = 0;
    bool starts_new_segment_ = true;
};

}  // namespace tinyllm
