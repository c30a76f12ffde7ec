#include "backends/cpu/attention/attention_tile.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/kv_cache.h"

namespace tinyllm::cpu {

namespace {

float* take(float*& next, int64_t count) {
    float* out = next;
    next += pad_floats(count);
    return out;
}

void clear(const AttentionState& state, int64_t queries, int64_t stride) {
    std::fill_n(state.max, queries, -std::numeric_limits<float>::infinity());
    std::fill_n(state.sum, queries, 0.0f);
    std::fill_n(state.values, queries * stride, 0.0f);
}

}  // namespace

int64_t AttentionState::floats(int64_t queries, int64_t head_dim) {
    return 2 * pad_floats(queries) + queries * pad_floats(head_dim);
}

AttentionState AttentionState::in(float* memory, int64_t queries, int64_t head_dim) {
    AttentionState state;
    state.max = take(memory, queries);
    state.sum = take(memory, queries);
    state.values = take(memory, queries * pad_floats(head_dim));
    return state;
}

void merge_states(const AttentionState& total, const AttentionState& part, int64_t begin, int64_t end,
                  int64_t head_dim) {
    const int64_t stride = pad_floats(head_dim);
    for (int64_t i = begin; i < end; ++i) {
        const float max = std::max(total.max[i], part.max[i]);
        const float a = std::exp(total.max[i] - max), b = std::exp(part.max[i] - max);
        float* sum = total.values + i * stride;
        const float* add = part.values + i * stride;
        for (int64_t d = 0; d < head_dim; ++d) sum[d] = a * sum[d] + b * add[d];
        total.sum[i] = a * total.sum[i] + b * part.sum[i];
        total.max[i] = max;
    }
}

AttentionTile::AttentionTile(const CpuKernels& kernels, const StepBatch& batch, const AttentionShape& shape,
                             const void* qkv, const KvLayer& kv, float* memory, int64_t max_queries)
    : rows_(kernels.rows(batch.dtype)),
      kernels_(kernels.attention),
      batch_(batch),
      shape_(shape),
      qkv_(static_cast<const char*>(qkv)),
      kv_(static_cast<const char*>(kv.data)),
      element_(static_cast<int64_t>(dtype_size(batch.dtype))),
      stride_(pad_floats(shape.head_dim)),
      keys_(take(memory, int64_t{shape.head_dim} * kPageTokens)),
      page_values_(take(memory, kPageTokens * stride_)),
      queries_(take(memory, max_queries * stride_)),
      scores_(take(memory, max_queries * kPageTokens)),
      factors_(take(memory, max_queries)),
      split_(AttentionState::in(memory, max_queries, shape.head_dim)),
      total_(AttentionState::in(memory + AttentionState::floats(max_queries, shape.head_dim), max_queries,
                                shape.head_dim)) {}

int64_t AttentionTile::scratch_floats(int64_t head_dim, int64_t max_queries) {
    const int64_t stride = pad_floats(head_dim);
    return head_dim * kPageTokens + kPageTokens * stride + max_queries * (stride + kPageTokens) +
           pad_floats(max_queries) + 2 * AttentionState::floats(max_queries, head_dim);
}

void AttentionTile::load(int32_t begin, int32_t end, int32_t kv_head) {
    begin_ = begin;
    num_rows_ = end - begin;
    kv_head_ = kv_head;
    first_position_ = batch_.positions[begin];
    pages_ = batch_.block_table + static_cast<int64_t>(batch_.slots[begin]) * batch_.pages_per_seq;
    const int64_t head_bytes = shape_.head_dim * element_;
    float* query = queries_;
    for (int32_t row = begin; row < end; ++row) {
        const char* q = qkv_ + row * (shape_.qkv_dim() * element_) + int64_t{kv_head} * shape_.q_per_kv() * head_bytes;
        for (int32_t h = 0; h < shape_.q_per_kv(); ++h, query += stride_)
            rows_.widen(q + h * head_bytes, shape_.softmax_scale, shape_.head_dim, query);
    }
}

int32_t AttentionTile::first_visible(int32_t position) const {
    return shape_.window > 0 ? std::max(0, position - shape_.window + 1) : 0;
}

void AttentionTile::attend_page(int32_t page, const AttentionState& state) {
    const int32_t base = page * kPageTokens, last = base + kPageTokens - 1;
    // As rows of the tile: [seen, seen_end) see something of the page, of which [full, full_end) see all of it. Rows
    // before see nothing yet, rows behind have it out of their window.
    const auto row_at = [&](int32_t position) { return std::clamp(position - first_position_, 0, num_rows_); };
    const bool windowed = shape_.window > 0;
    const int32_t seen = row_at(base), seen_end = windowed ? row_at(last + shape_.window) : num_rows_;
    if (seen >= seen_end) return;
    const int32_t full = std::min(row_at(last), seen_end);
    const int32_t full_end = std::clamp(windowed ? row_at(base + shape_.window) : num_rows_, full, seen_end);
    const int32_t num_tokens = std::min(kPageTokens, first_position_ + seen_end - base);

    const int64_t tile = kv_tile_offset(pages_[page], 0, kv_head_, shape_.num_kv_heads, shape_.head_dim);
    rows_.transpose_keys(kv_ + tile * element_, num_tokens, shape_.head_dim, keys_);
    const int64_t value_tile = kv_tile_offset(pages_[page], 1, kv_head_, shape_.num_kv_heads, shape_.head_dim);
    for (int32_t t = 0; t < num_tokens; ++t)
        rows_.widen(kv_ + (value_tile + int64_t{t} * shape_.head_dim) * element_, 1.0f, shape_.head_dim,
                    page_values_ + t * stride_);

    const int64_t heads = shape_.q_per_kv();
    kernels_.multiply_add((seen_end - seen) * heads, pad_floats(num_tokens), shape_.head_dim,
                          queries_ + seen * heads * stride_, stride_, keys_, kPageTokens, nullptr,
                          scores_ + seen * heads * kPageTokens, kPageTokens);

    // Rows [row, row_end) all see the tokens [begin, end) of the page.
    const auto add_values = [&](int32_t row, int32_t row_end, int32_t begin, int32_t end) {
        const int64_t first = static_cast<int64_t>(row) * heads, count = static_cast<int64_t>(row_end - row) * heads;
        for (int64_t i = first; i < first + count; ++i)
            factors_[i] = kernels_.softmax_page(scores_ + i * kPageTokens, begin, end, state.max + i, state.sum + i);
        kernels_.multiply_add(count, stride_, end - begin, scores_ + first * kPageTokens + begin, kPageTokens,
                              page_values_ + begin * stride_, stride_, factors_ + first, state.values + first * stride_,
                              stride_);
    };
    const auto add_partial = [&](int32_t row) {
        const int32_t position = first_position_ + row;
        add_values(row, row + 1, std::max(0, first_visible(position) - base),
                   std::min(kPageTokens, position + 1 - base));
    };
    for (int32_t row = seen; row < full; ++row) add_partial(row);
    if (full < full_end) add_values(full, full_end, 0, kPageTokens);
    for (int32_t row = full_end; row < seen_end; ++row) add_partial(row);
}

void AttentionTile::attend_split(int64_t split, const AttentionState& state) {
    clear(state, static_cast<int64_t>(num_rows_) * shape_.q_per_kv(), stride_);
    constexpr int32_t kSplitPages = kSplitTokens / kPageTokens;
    const int32_t last_page = (first_position_ + num_rows_ - 1) / kPageTokens;
    const int32_t first = static_cast<int32_t>(split) * kSplitPages;
    for (int32_t page = first; page < first + kSplitPages && page <= last_page; ++page) attend_page(page, state);
}

void AttentionTile::attend_all() {
    const int32_t heads = shape_.q_per_kv(), last_position = first_position_ + num_rows_ - 1;
    for (int64_t split = first_split(first_position_); split <= last_split(last_position); ++split) {
        attend_split(split, split_);
        for (int32_t row = 0; row < num_rows_; ++row) {
            const int32_t position = first_position_ + row;
            const int64_t begin = static_cast<int64_t>(row) * heads, end = begin + heads;
            if (split == first_split(position)) {
                std::copy(split_.max + begin, split_.max + end, total_.max + begin);
                std::copy(split_.sum + begin, split_.sum + end, total_.sum + begin);
                std::copy(split_.values + begin * stride_, split_.values + end * stride_,
                          total_.values + begin * stride_);
            } else if (split > first_split(position) && split <= last_split(position)) {
                merge_states(total_, split_, begin, end, shape_.head_dim);
            }
        }
    }
}

void AttentionTile::store(const AttentionState& state, void* out) const {
    const int32_t heads = shape_.q_per_kv();
    const int64_t head_bytes = shape_.head_dim * element_;
    for (int32_t row = 0; row < num_rows_; ++row) {
        for (int32_t h = 0; h < heads; ++h) {
            const int64_t i = static_cast<int64_t>(row) * heads + h;
            const int64_t head = static_cast<int64_t>(begin_ + row) * shape_.num_heads + int64_t{kv_head_} * heads + h;
            rows_.narrow(state.values + i * stride_, 1.0f / state.sum[i], shape_.head_dim,
                         static_cast<char*>(out) + head * head_bytes);
        }
    }
}

}  // namespace tinyllm::cpu
