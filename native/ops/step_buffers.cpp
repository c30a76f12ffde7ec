#include "ops/step_buffers.h"

#include <algorithm>
#include <numeric>

#include "config/engine_config.h"
#include "core/error.h"

namespace tinyllm {

StepCapacity decode_capacity(const EngineConfig& engine) {
    const int32_t batch = engine.kv_cache.max_batch_size;
    return {batch, batch, 1, batch, 0};
}

StepCapacity prefill_capacity(const EngineConfig& engine, const StepShape& shape) {
    const int32_t batch = engine.kv_cache.max_batch_size;
    const int32_t tiles = shape.max_tiles();
    // Every tile border may cut a segment in two.
    return {shape.max_rows, std::min(batch + tiles, shape.max_rows), tiles, batch, shape.logits_rows};
}

StepBuffers::Offsets StepBuffers::offsets(const StepCapacity& c) {
    Offsets o;
    int64_t at = static_cast<int64_t>(c.samples) * sizeof(SampleParams);
    const auto take = [&at](int64_t count) {
        const int64_t offset = at;
        at += count * static_cast<int64_t>(sizeof(int32_t));
        return offset;
    };
    o.token_ids = take(c.rows);
    o.positions = take(c.rows);
    o.slots = take(c.rows);
    o.rope_lens = take(c.rows);
    o.segment_starts = take(c.segments + c.tiles);
    o.logits_rows = take(c.samples);
    o.ascending = take(c.ascending);
    o.total = at;
    return o;
}

int64_t StepBuffers::bytes(const StepCapacity& capacity) { return offsets(capacity).total; }

StepBuffers::StepBuffers(const StepCapacity& capacity, void* device)
    : capacity_(capacity), offsets_(offsets(capacity)), device_(device), staging_(offsets_.total) {
    for (std::vector<int32_t>* rows : {&token_ids_, &positions_, &slots_, &rope_lens_}) rows->reserve(capacity.rows);
    segment_starts_.reserve(capacity.segments + capacity.tiles);
    logits_rows_.reserve(capacity.samples);
    sample_params_.reserve(capacity.samples);
    tiles_.reserve(capacity.tiles);
    std::vector<int32_t> ascending(capacity.ascending);
    std::iota(ascending.begin(), ascending.end(), 0);
    put(offsets_.ascending, ascending);
}

void StepBuffers::clear() {
    for (std::vector<int32_t>* list : {&token_ids_, &positions_, &slots_, &rope_lens_, &segment_starts_, &logits_rows_})
        list->clear();
    sample_params_.clear();
    num_samples_ = 0;
    tiles_.clear();
    starts_new_segment_ = true;
}

void StepBuffers::push_row(const StepRow& row, int32_t tile_rows) {
    const int32_t index = num_rows();
    const bool new_tile = index % tile_rows == 0;
    if (new_tile) {
        tiles_.push_back({index, 0, static_cast<int32_t>(segment_starts_.size()), 0, 0});
        segment_starts_.push_back(0);
    }
    Tile& tile = tiles_.back();
    if (new_tile || starts_new_segment_) {
        ++tile.num_segments;
        segment_starts_.push_back(tile.num_rows);
        starts_new_segment_ = false;
    }
    ++tile.num_rows;
    segment_starts_.back() = tile.num_rows;  // end of the current segment
    const int32_t begin = segment_starts_[segment_starts_.size() - 2];
    tile.max_segment_rows = std::max(tile.max_segment_rows, tile.num_rows - begin);
    token_ids_.push_back(row.token_id);
    positions_.push_back(row.position);
    slots_.push_back(row.slot);
    rope_lens_.push_back(row.rope_len);
}

void StepBuffers::push_sample(const SampleParams& params) {
    logits_rows_.push_back(num_rows() - 1);
    sample_params_.push_back(params);
    ++num_samples_;
}

void StepBuffers::push_padding() {
    push_segment();
    push_row({0, 0, -1, 1}, capacity_.rows);
    logits_rows_.push_back(num_rows() - 1);
    SampleParams nothing;
    nothing.slot = -1;
    sample_params_.push_back(nothing);
}

void StepBuffers::upload(Backend& backend) {
    TL_CHECK(num_rows() <= capacity_.rows && static_cast<int32_t>(sample_params_.size()) <= capacity_.samples);
    TL_CHECK(static_cast<int32_t>(segment_starts_.size()) <= capacity_.segments + capacity_.tiles);
    put(0, sample_params_);
    put(offsets_.token_ids, token_ids_);
    put(offsets_.positions, positions_);
    put(offsets_.slots, slots_);
    put(offsets_.rope_lens, rope_lens_);
    put(offsets_.segment_starts, segment_starts_);
    put(offsets_.logits_rows, logits_rows_);
    backend.upload(device_, staging_.data(), staging_.size());
}

StepBatch StepBuffers::whole(const StepBatch& common) const {
    StepBatch batch = common;
    batch.num_rows = num_rows();
    batch.num_segments = 0;
    batch.num_logits = static_cast<int32_t>(logits_rows_.size());
    batch.token_ids = device_at<int32_t>(offsets_.token_ids);
    batch.positions = device_at<int32_t>(offsets_.positions);
    batch.slots = device_at<int32_t>(offsets_.slots);
    batch.rope_lens = device_at<int32_t>(offsets_.rope_lens);
    batch.logits_rows = device_at<int32_t>(offsets_.logits_rows);
    batch.sample_params = device_at<SampleParams>(0);
    return batch;
}

std::vector<StepBatch> StepBuffers::tiles(const StepBatch& common) const {
    const StepBatch all = whole(common);
    std::vector<StepBatch> out;
    out.reserve(tiles_.size());
    for (const Tile& tile : tiles_) {
        StepBatch batch = all;
        batch.num_rows = tile.num_rows;
        batch.num_segments = tile.num_segments;
        batch.max_segment_rows = tile.max_segment_rows;
        batch.num_logits = 0;
        batch.token_ids += tile.first_row;
        batch.positions += tile.first_row;
        batch.slots += tile.first_row;
        batch.rope_lens += tile.first_row;
        batch.segment_starts = device_at<int32_t>(offsets_.segment_starts) + tile.first_start;
        out.push_back(batch);
    }
    return out;
}

}  // namespace tinyllm
