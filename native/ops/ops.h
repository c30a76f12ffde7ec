// Ops: the fused steps that a forward pass is made of. Each backend implements them; model/forward.cpp calls them.
//
// T is the activation type (DType of the model: f16, bf16, or float on the CPU). All arithmetic accumulates in fp32.
// Pointers are memory of the backend. Everything is enqueued in order on the backend's one queue.
//
// Rule for every implementation: the result of a row depends only on that row's inputs, its sequence and the shapes of
// the weights, never on how many or which other rows run in the same step (within one Phase). A request then gives the
// same bits alone and in any batch.
#pragma once

#include <cstdint>

#include "config/kinds.h"
#include "core/dtype.h"
#include "ops/launch_hints.h"
#include "ops/sampling_settings.h"

namespace tinyllm {

// A step is either decode (one row per sequence, at most max_batch rows) or prefill (chunks of prompts). A backend may
// use different kernels for the two; it must not choose between kernels of different summation order by row count.
enum class Phase : int32_t { Decode, Prefill };

// What a row of logits gives that holds NaN or +infinity, or -infinity alone: numbers overflowed on the way to it.
constexpr int32_t kNoToken = -1;

struct SampledToken {
    int32_t token_id;  // or kNoToken
    float logprob;     // log-softmax of the raw logits at token_id; NaN where not asked for
};

// The rows of one step, already on the device. Rows of one sequence are consecutive and their positions ascend by 1;
// such a run is a segment. A row with slot -1 is padding: it reads token 0, appends nothing and its result is unused.
struct StepBatch {
    Phase phase = Phase::Decode;
    DType dtype = DType::F16;  // T: element type of the step's activations and of the KV cache
    int32_t num_rows = 0;
    int32_t num_segments = 0;
    int32_t num_logits = 0;
    int32_t max_kv_len = 0;  // no row's position + 1 exceeds this (rounded up by the engine, so that graphs are few)
    int32_t max_segment_rows = 0;             // no segment has more rows
    const int32_t* token_ids = nullptr;       // [num_rows]
    const int32_t* positions = nullptr;       // [num_rows]
    const int32_t* slots = nullptr;           // [num_rows] row of block_table and of `seen`
    const int32_t* rope_lens = nullptr;       // [num_rows] sequence length that dynamic RoPE assumes
    const int32_t* segment_starts = nullptr;  // [num_segments + 1] first row of each segment, counted from first_row
    const int32_t* block_table = nullptr;     // [max_batch, pages_per_seq] page of each kPageTokens positions
    int32_t pages_per_seq = 0;
    const int32_t* logits_rows = nullptr;         // [num_logits] rows whose logits are wanted
    const SampleParams* sample_params = nullptr;  // [num_logits]
    bool greedy = false;                          // every sample is plain greedy without penalty and logprob
};

// One linear layer y = x W^T + b in its backend's packed layout (quantization/layout.h).
struct LinearWeight {
    int32_t n = 0;  // outputs
    int32_t k = 0;  // inputs
    QuantizationType quantization = QuantizationType::W8A16;
    int32_t group_length = 0;  // inputs that share a scale; the last group of a row may be short
    DType dtype = DType::F16;  // element type where not quantised
    void* data = nullptr;      // int8 [n, k] or T [n, k], packed
    void* scales = nullptr;    // f16 [n, ceil(k / group_length)], packed; null where not quantised
    float* bias = nullptr;     // [n] or null
    LaunchHints hints = {};
};

struct NormWeight {
    const float* weight = nullptr;  // [hidden_dim] (or [head_dim] for Q/K norms)
    float eps = 0;
};

// Angles: angle(row, i) = position * inv_freq[i] (or, if dynamic, with theta stretched to rope_lens[row]).
struct RopeParams {
    const float* inv_freq = nullptr;  // [rotary_dim / 2]
    int32_t rotary_dim = 0;
    float attention_factor = 1.0f;  // multiplies cos and sin
    bool dynamic = false;           // the three below matter only then; formula in ops/rope.h
    float theta = 0;
    float factor = 1.0f;
    int32_t original_max_seq_len = 0;
};

// The pages of one layer; layout in ops/kv_cache.h.
struct KvLayer {
    void* data = nullptr;  // T [pages, 2 (K, V), num_kv_heads, kPageTokens, head_dim]
};

struct AttentionShape {
    int32_t num_heads = 0;
    int32_t num_kv_heads = 0;
    int32_t head_dim = 0;
    int32_t window = 0;  // 0: no sliding window; else a row at position p sees positions (p - window, p]
    float softmax_scale = 0;

    bool operator==(const AttentionShape&) const = default;

    int32_t q_per_kv() const { return num_heads / num_kv_heads; }
    int32_t q_dim() const { return num_heads * head_dim; }
    int32_t kv_dim() const { return num_kv_heads * head_dim; }
    int32_t qkv_dim() const { return q_dim() + 2 * kv_dim(); }
};

struct QkvWeights {
    NormWeight input_norm;
    LinearWeight qkv;   // rows: all q heads, all k heads, all v heads
    NormWeight q_norm;  // weight null: none
    NormWeight k_norm;
};

class Ops {
public:
    virtual ~Ops() = default;

    // hidden[r] = table[token_ids[r]]; also seen[slot, token] = 1 where `seen` is given.
    //   table: LinearWeight [vocab, hidden_dim]; hidden: T [num_rows, hidden_dim]; seen: bits [max_batch, ceil(vocab /
    //   32)] or null
    virtual void embed(const StepBatch& batch, const LinearWeight& table, uint32_t* seen, void* hidden) = 0;

    // cos_sin[r] = attention_factor * (cos(angle(r, 0..)), sin(angle(r, 0..))): float [num_rows, 2, rotary_dim / 2]
    virtual void rope_table(const StepBatch& batch, const RopeParams& rope, float* cos_sin) = 0;

    // x = RMSNorm(hidden); (q, k, v) = x Wqkv^T + b; q and k: optional per-head RMSNorm, then RoPE on the first
    // rotary_dim of each head, pairs (i, i + rotary_dim / 2); k and v are appended to the cache at their positions.
    //   hidden: T [num_rows, hidden_dim]; normed: T scratch [num_rows, hidden_dim]; qkv: T [num_rows, qkv_dim], of
    //   which the q part holds the result and the rest is scratch
    virtual void qkv(const StepBatch& batch, const QkvWeights& weights, const AttentionShape& shape,
                     const RopeParams& rope, const float* cos_sin, const void* hidden, void* normed, void* qkv,
                     const KvLayer& kv) = 0;

    // out[r, head] = softmax(softmax_scale * q . K^T) V over the positions that row r sees, causal.
    //   qkv: T [num_rows, qkv_dim] (only the q part is read); out: T [num_rows, num_heads * head_dim]
    virtual void attention(const StepBatch& batch, const AttentionShape& shape, const void* qkv, const KvLayer& kv,
                           void* out) = 0;

    // qkv(), then attention() of the same rows, to the same bits. What `qkv` holds afterwards is unspecified; `out` may
    // be the memory of `normed`.
    virtual void qkv_attention(const StepBatch& batch, const QkvWeights& weights, const AttentionShape& shape,
                               const RopeParams& rope, const float* cos_sin, const void* hidden, void* normed,
                               void* qkv, const KvLayer& kv, void* out) {
        this->qkv(batch, weights, shape, rope, cos_sin, hidden, normed, qkv, kv);
        attention(batch, shape, qkv, kv, out);
    }

    // hidden += x W^T + b.   x: T [num_rows, k]; hidden: T [num_rows, n]
    virtual void linear_residual(const StepBatch& batch, const LinearWeight& weight, const void* x, void* hidden) = 0;

    // x = RMSNorm(hidden); out[r, i] = silu(gate_i) * up_i, where row 2i of the weight is gate_i and row 2i + 1 is
    // up_i.
    //   normed: T scratch [num_rows, hidden_dim]; out: T [num_rows, gate_up.n / 2]
    virtual void gate_up(const StepBatch& batch, const NormWeight& norm, const LinearWeight& gate_up,
                         const void* hidden, void* normed, void* out) = 0;

    // logits[i] = RMSNorm(hidden[logits_rows[i]]) W^T for i < num_logits.
    //   normed: T scratch [num_logits, hidden_dim]; logits: float [num_logits, vocab_size]
    virtual void logits(const StepBatch& batch, const NormWeight& norm, const LinearWeight& head, const void* hidden,
                        void* normed, float* logits) = 0;

    // out[i] = token drawn from logits[i] by sample_params[i]; logits may be overwritten. The draw is argmax of
    // logit / temperature + Gumbel noise over the tokens that pass the filters, noise from Philox4x32-10 keyed by
    // (seed, position, token): ops/philox.h states it. Ties go to the lowest token id.
    // Filters, with tokens ranked by score, equal scores by ascending id: top-k keeps the first k; top-p keeps tokens
    // up to the first at which the probabilities, among what top-k left, add up to top_p or more; min-p keeps those of
    // at least min_p times the highest probability. The penalty divides positive logits of seen tokens and multiplies
    // others. A row without finite logits gives kNoToken.
    //   seen: as in embed, or null where no request uses the repetition penalty
    virtual void sample(const StepBatch& batch, int32_t vocab_size, const uint32_t* seen, float* logits,
                        SampledToken* out) = 0;
};

}  // namespace tinyllm
