// The attention op: how its work is cut into tiles (attention_tile.h) and spread over threads.
#include "backends/cpu/attention/attention.h"

#include <algorithm>

#include "backends/cpu/attention/attention_tile.h"
#include "backends/cpu/cpu_backend.h"
#include "config/engine_config.h"
#include "core/parallel.h"

namespace tinyllm::cpu {

namespace {

// Queries of a prefill tile: enough that widening a page costs little compared with using it.
constexpr int32_t kTileQueries = 96;

int32_t rows_per_tile(int32_t q_per_kv) { return std::max(1, kTileQueries / q_per_kv); }

int64_t splits_of(int64_t kv_len) { return (kv_len + kSplitTokens - 1) / kSplitTokens; }

// Scratch: a tile for each thread, then, for decode, the state of each (row, kv head, split).
struct ScratchLayout {
    int64_t max_queries;
    int64_t tile_floats;   // of one thread
    int64_t state_floats;  // of one state
    int64_t max_splits;    // of a row

    ScratchLayout(int32_t q_per_kv, int32_t head_dim, int64_t kv_len)
        : max_queries(static_cast<int64_t>(rows_per_tile(q_per_kv)) * q_per_kv),
          tile_floats(AttentionTile::scratch_floats(head_dim, max_queries)),
          state_floats(AttentionState::floats(q_per_kv, head_dim)),
          max_splits(splits_of(kv_len)) {}
    int64_t bytes(int64_t decode_rows, int32_t num_kv_heads) const {
        return 4 * (num_threads() * tile_floats + decode_rows * num_kv_heads * max_splits * state_floats);
    }
};

}  // namespace

int64_t attention_scratch_bytes(const ModelShapes& model, const KVCacheConfig& kv_cache) {
    const int64_t kv_len = static_cast<int64_t>(kv_cache.pages_per_seq()) * kPageTokens;
    int64_t most = 0;
    for (const AttentionShape& shape : model.attentions)
        most = std::max(
            most,
            ScratchLayout(shape.q_per_kv(), shape.head_dim, kv_len).bytes(kv_cache.max_batch_size, shape.num_kv_heads));
    return most;
}

namespace {

// Every (row, kv head, split) is a piece of work, so that one long sequence keeps all threads busy; then the splits of
// a row are merged in order.
void attend_decode(const CpuKernels& kernels, const ScratchLayout& layout, float* scratch, const StepBatch& batch,
                   const AttentionShape& shape, const void* qkv, const KvLayer& kv, void* out) {
    const int64_t kv_heads = shape.num_kv_heads;
    float* states = scratch + num_threads() * layout.tile_floats;
    const auto make_tile = [&](int thread) {
        return AttentionTile(kernels, batch, shape, qkv, kv, scratch + thread * layout.tile_floats, layout.max_queries);
    };
    const auto state_of = [&](int64_t row, int64_t kv_head, int64_t split) {
        float* memory = states + ((row * kv_heads + kv_head) * layout.max_splits + split) * layout.state_floats;
        return AttentionState::in(memory, shape.q_per_kv(), shape.head_dim);
    };
    parallel_for_each(batch.num_rows * kv_heads * layout.max_splits, [&](int thread, int64_t i) {
        const int64_t row = i / (kv_heads * layout.max_splits);
        const int64_t kv_head = i / layout.max_splits % kv_heads, split = i % layout.max_splits;
        if (batch.slots[row] < 0) return;
        const int32_t position = batch.positions[row];
        AttentionTile tile = make_tile(thread);
        const int64_t first = tile.first_split(position), last = tile.last_split(position);
        if (split < first || split > last) return;
        tile.load(static_cast<int32_t>(row), static_cast<int32_t>(row + 1), static_cast<int32_t>(kv_head));
        const AttentionState state = state_of(row, kv_head, split);
        tile.attend_split(split, state);
        if (first == last) tile.store(state, out);
    });
    if (layout.max_splits == 1) return;
    parallel_for(batch.num_rows * kv_heads, 1, [&](int thread, int64_t begin, int64_t end) {
        AttentionTile tile = make_tile(thread);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t row = i / kv_heads, kv_head = i % kv_heads;
            if (batch.slots[row] < 0) continue;
            const int64_t first = tile.first_split(batch.positions[row]), last = tile.last_split(batch.positions[row]);
            if (first == last) continue;
            const AttentionState total = state_of(row, kv_head, first);
            for (int64_t split = first + 1; split <= last; ++split)
                merge_states(total, state_of(row, kv_head, split), 0, shape.q_per_kv(), shape.head_dim);
            tile.load(static_cast<int32_t>(row), static_cast<int32_t>(row + 1), static_cast<int32_t>(kv_head));
            tile.store(total, out);
        }
    });
}

// Every (block of rows, kv head) is a piece of work. A block is cut where its rows change sequence.
void attend_prefill(const CpuKernels& kernels, const ScratchLayout& layout, float* scratch, const StepBatch& batch,
                    const AttentionShape& shape, const void* qkv, const KvLayer& kv, void* out) {
    const int32_t block_rows = rows_per_tile(shape.q_per_kv());
    const int64_t blocks = (batch.num_rows + block_rows - 1) / block_rows;
    parallel_for_each(blocks * shape.num_kv_heads, [&](int thread, int64_t i) {
        // The last rows of a prompt see most; they go first, so that no thread is left with them in the end.
        const int64_t block = blocks - 1 - i / shape.num_kv_heads;
        const int32_t kv_head = static_cast<int32_t>(i % shape.num_kv_heads);
        const int32_t block_begin = static_cast<int32_t>(block) * block_rows;
        const int32_t block_end = std::min(batch.num_rows, block_begin + block_rows);
        AttentionTile tile(kernels, batch, shape, qkv, kv, scratch + thread * layout.tile_floats, layout.max_queries);
        int32_t end = block_begin;
        for (int32_t begin = block_begin; begin < block_end; begin = end) {
            end = begin + 1;
            if (batch.slots[begin] < 0) continue;
            while (end < block_end && batch.slots[end] == batch.slots[begin] &&
                   batch.positions[end] == batch.positions[end - 1] + 1)
                ++end;
            tile.load(begin, end, kv_head);
            tile.attend_all();
            tile.store(tile.total(), out);
        }
    });
}

}  // namespace

void CpuBackend::attention(const StepBatch& batch, const AttentionShape& shape, const void* qkv, const KvLayer& kv,
                           void* out) {
    const bool decode = batch.phase == Phase::Decode;
    const int64_t kv_len = std::min<int64_t>(batch.max_kv_len, static_cast<int64_t>(batch.pages_per_seq) * kPageTokens);
    const ScratchLayout layout(shape.q_per_kv(), shape.head_dim, kv_len);
    auto* memory = static_cast<float*>(scratch(layout.bytes(decode ? batch.num_rows : 0, shape.num_kv_heads)));
    const auto attend = decode ? attend_decode : attend_prefill;
    attend(kernels_, layout, memory, batch, shape, qkv, kv, out);
}

}  // namespace tinyllm::cpu
