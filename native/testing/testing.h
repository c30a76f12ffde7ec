// Test hooks: one op of one backend, run on arrays of the host. Exported by libtinyllm, called through ctypes by
// tests/python/ops_api.py, and no part of the public interface: they may change at any time.
//
// Every hook opens the device, allocates, uploads, runs the op once, downloads, and frees everything again. Device
// memory that the op should write before anybody reads it (outputs, scratch) is filled with 0xFF first, which is NaN in
// every float type, and each buffer lies between two guard zones whose change is an error. Rows whose op has no
// defined result (padding) come back as the op left them.
//
// Values of the activation type T cross as float32: inputs are rounded to T (exact where they are T values already),
// outputs widened. Failures are reported as by the functions of tinyllm.h: status and tl_last_error().
#pragma once

#include <cstdint>

#include "ops/ops.h"
#include "tinyllm.h"

extern "C" {

// Where and in which types a case runs.
typedef struct tl_test_target {
    int32_t device_kind;  // tl_device_kind
    int32_t device_index;
    int32_t dtype;         // tl_dtype: T
    int32_t quantization;  // tl_quantization of linear weights
    int32_t group_size;    // 32, 64, 128, 256, or 0: one group per row
} tl_test_target;

// A tensor as it comes from a checkpoint: row-major, perhaps unaligned. Vectors have one row.
typedef struct tl_test_tensor {
    const void* data;
    int32_t dtype;  // tl_dtype of data
    int32_t rows;
    int32_t cols;
    const float* bias;  // [rows] or null
} tl_test_tensor;

// The rows of one step: StepBatch before it is uploaded. Segments are found from slots and positions.
typedef struct tl_test_batch {
    int32_t phase;  // tinyllm::Phase
    int32_t num_rows;
    int32_t num_slots;  // rows of block_table and of `seen`
    int32_t pages_per_seq;
    int32_t num_pages;           // of the KV cache
    int32_t max_kv_len;          // at least every position + 1
    const int32_t* token_ids;    // [num_rows]
    const int32_t* positions;    // [num_rows]
    const int32_t* slots;        // [num_rows], -1: padding
    const int32_t* rope_lens;    // [num_rows]
    const int32_t* block_table;  // [num_slots, pages_per_seq]
} tl_test_batch;

// An RMSNorm. weight null: none.
typedef struct tl_test_norm {
    const float* weight;  // [features]
    float eps;
} tl_test_norm;

// Fields of tinyllm::RopeParams.
typedef struct tl_test_rope {
    const float* inv_freq;  // [rotary_dim / 2]
    int32_t rotary_dim;
    float attention_factor;
    int32_t dynamic;
    float theta;
    float factor;
    int32_t original_max_seq_len;
} tl_test_rope;

// Fields of tinyllm::AttentionShape.
typedef struct tl_test_attention_shape {
    int32_t num_heads;
    int32_t num_kv_heads;
    int32_t head_dim;
    int32_t window;
    float softmax_scale;
} tl_test_attention_shape;

// Tensors of the qkv op; q.cols == k.cols == v.cols.
typedef struct tl_test_qkv_weights {
    tl_test_norm input_norm;  // [hidden_dim]
    tl_test_tensor q;         // [num_heads * head_dim, hidden_dim]
    tl_test_tensor k;         // [num_kv_heads * head_dim, hidden_dim]
    tl_test_tensor v;
    tl_test_norm q_norm;  // [head_dim]
    tl_test_norm k_norm;
} tl_test_qkv_weights;

// tinyllm::LinearLoad, field by field; null: not wanted.
typedef struct tl_test_linear_load {
    int32_t search_scales;
    const float* importance;     // [cols]
    const float* input_moments;  // [cols]
    float* output_moments;       // [rows], written
    float* column_moments;       // [cols], written
} tl_test_linear_load;

// Backend::load_linear, read back: `values` float [rows, cols] are q (W8A16) or the weights in T (NONE); `scales` float
// [rows, groups] is written for W8A16 only; `first_bad` is what load_linear returned, and where it is not -1 the two
// others are not written.
TL_API tl_status tl_test_load_linear(const tl_test_target* target, const tl_test_tensor* tensor,
                                     const tl_test_linear_load* load, float* values, float* scales, int64_t* first_bad);

// Backend::fill_random of a weight [n, k], read back as in tl_test_load_linear.
TL_API tl_status tl_test_fill_random(const tl_test_target* target, int32_t n, int32_t k, uint64_t seed, float* values,
                                     float* scales);

// WeightLoader with the tensors of a checkpoint in the order given (rows 0: a vector), then the scales of all W8A16
// matrices in the order of DecoderSpec::matrices(), each [n, groups] row by row. `count` is how many there are, of
// which as many are written as fit in `capacity`.
TL_API tl_status tl_test_model_scales(const tl_model_config* model, int32_t device_kind, int32_t num_tensors,
                                      const char* const* names, const tl_test_tensor* tensors, float* scales,
                                      int64_t capacity, int64_t* count);

// Ops::embed. seen: uint32 [num_slots, ceil(rows of table / 32)], updated in place, or null;
// hidden: float [num_rows, cols of table].
TL_API tl_status tl_test_embed(const tl_test_target* target, const tl_test_batch* batch, const tl_test_tensor* table,
                               uint32_t* seen, float* hidden);

// rope_inv_freq of ops/rope.h. freq_factors: [rotary_dim / 2] or null; inv_freq: [rotary_dim / 2].
TL_API tl_status tl_test_rope_inv_freq(const tl_model_config* config, const float* freq_factors, float* inv_freq);

// Ops::rope_table. cos_sin: float [num_rows, 2, rotary_dim / 2].
TL_API tl_status tl_test_rope_table(const tl_test_target* target, const tl_test_batch* batch, const tl_test_rope* rope,
                                    float* cos_sin);

// Ops::rope_table, then Ops::qkv. hidden: float [num_rows, hidden_dim]; q: float [num_rows, num_heads * head_dim];
// kv: float [num_pages, 2, num_kv_heads, kPageTokens, head_dim], updated in place.
TL_API tl_status tl_test_qkv(const tl_test_target* target, const tl_test_batch* batch,
                             const tl_test_qkv_weights* weights, const tl_test_attention_shape* shape,
                             const tl_test_rope* rope, const float* hidden, float* kv, float* q);

// Ops::attention. q and out: float [num_rows, num_heads * head_dim]; kv as in tl_test_qkv, read only. The parts of the
// op's input that it must not read (k and v of the rows) are NaN.
TL_API tl_status tl_test_attention(const tl_test_target* target, const tl_test_batch* batch,
                                   const tl_test_attention_shape* shape, const float* q, const float* kv, float* out);

// Ops::linear_residual. x: float [num_rows, cols of weight]; hidden: float [num_rows, rows of weight], updated in
// place.
TL_API tl_status tl_test_linear_residual(const tl_test_target* target, const tl_test_batch* batch,
                                         const tl_test_tensor* weight, const float* x, float* hidden);

// Ops::gate_up. gate and up: [intermediate_dim, hidden_dim]; out: float [num_rows, intermediate_dim].
TL_API tl_status tl_test_gate_up(const tl_test_target* target, const tl_test_batch* batch, const tl_test_norm* norm,
                                 const tl_test_tensor* gate, const tl_test_tensor* up, const float* hidden, float* out);

// Ops::logits. hidden: float [num_rows, cols of head]; logits: float [num_logits, rows of head].
TL_API tl_status tl_test_logits(const tl_test_target* target, const tl_test_batch* batch, const tl_test_norm* norm,
                                const tl_test_tensor* head, const float* hidden, const int32_t* logits_rows,
                                int32_t num_logits, float* logits);

// Ops::sample with one decode row per row of logits. logits: float [num_rows, vocab_size]; params and out: [num_rows];
// seen: uint32 [num_slots, ceil(vocab_size / 32)] or null.
TL_API tl_status tl_test_sample(const tl_test_target* target, const tl_test_batch* batch, int32_t vocab_size,
                                const float* logits, const tinyllm::SampleParams* params, const uint32_t* seen,
                                tinyllm::SampledToken* out);

// Random numbers of ops/philox.h: the four words of a counter, and the Gumbel noise that each gives.
TL_API tl_status tl_test_philox(uint64_t seed, uint32_t counter0, uint32_t counter1, uint32_t* words, float* noise);

}  // extern "C"
