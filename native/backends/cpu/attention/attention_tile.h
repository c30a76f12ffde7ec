// Attention of one tile: consecutive rows of one sequence with the query heads of one KV head.
//
// softmax(softmax_scale * q K^T) V with a running softmax, page by page (online softmax: Milakov and Gimelshein 2018;
// tiled as in FlashAttention, Dao et al. 2022). The order of a query's sums depends on its position and the window
// only: a context is cut into splits of kSplitTokens positions, aligned at position 0; each split is summed page by
// page from an empty state, and the splits are merged from first to last. So it does not matter which queries share a
// tile, nor whether the splits of a query are done one after another (prefill) or by several threads (decode).
//
// A query is one row with one query head; query i of a tile is row i / q_per_kv, head i % q_per_kv.
#pragma once

#include <cstdint>

#include "backends/cpu/simd/kernels.h"
#include "config/limits.h"
#include "ops/ops.h"

namespace tinyllm::cpu {

constexpr int32_t kSplitTokens = 4 * kPageTokens;

// Running softmax of some queries over the tokens seen so far. Exponentials are relative to `max`.
struct AttentionState {
    float* max;     // [queries], -infinity while nothing was seen
    float* sum;     // [queries] sum of exponentials
    float* values;  // [queries, pad_floats(head_dim)] sum of exponential * value

    static int64_t floats(int64_t queries, int64_t head_dim);
    // Lays a state out in `memory`, which holds floats().
    static AttentionState in(float* memory, int64_t queries, int64_t head_dim);
};

class AttentionTile {
public:
    // memory: scratch of one thread, scratch_floats() for the largest tile. qkv: T [num_rows, qkv_dim].
    AttentionTile(const CpuKernels& kernels, const StepBatch& batch, const AttentionShape& shape, const void* qkv,
                  const KvLayer& kv, float* memory, int64_t max_queries);
    static int64_t scratch_floats(int64_t head_dim, int64_t max_queries);

    // The tile of rows [begin, end), whose positions ascend by 1 in one sequence.
    void load(int32_t begin, int32_t end, int32_t kv_head);
    // Sums one split into `state`, which it empties first. Queries that see nothing of the split stay empty.
    void attend_split(int64_t split, const AttentionState& state);
    // Split by split, all that the rows see; the result is in total().
    void attend_all();
    const AttentionState& total() const { return total_; }
    // out: T [num_rows, num_heads * head_dim]; writes the tile's part.
    void store(const AttentionState& state, void* out) const;

    // First and last split of which a row at `position` sees anything.
    int64_t first_split(int32_t position) const { return first_visible(position) / kSplitTokens; }
    static int64_t last_split(int32_t position) { return position / kSplitTokens; }

private:
    int32_t first_visible(int32_t position) const;
    void attend_page(int32_t page, const AttentionState& state);

    const RowKernels& rows_;
    const AttentionKernels& kernels_;
    const StepBatch& batch_;
    const AttentionShape& shape_;
    const char* qkv_;
    const char* kv_;
    const int64_t element_;  // bytes of a T
    const int64_t stride_;   // of rows of float scratch
    float* keys_;            // [head_dim, kPageTokens] of one page
    float* page_values_;     // [kPageTokens, stride_]
    float* queries_;         // [queries, stride_], scaled by softmax_scale
    float* scores_;          // [queries, kPageTokens]
    float* factors_;         // [queries] what a new maximum scales older sums by
    AttentionState split_, total_;

    int32_t begin_ = 0, num_rows_ = 0, kv_head_ = 0, first_position_ = 0;
    const int32_t* pages_ = nullptr;  // of the sequence
};

// Adds the later tokens of `part` to `total`, for queries [begin, end).
void merge_states(const AttentionState& total, const AttentionState& part, int64_t begin, int64_t end,
                  int64_t head_dim);

}  // namespace tinyllm::cpu
