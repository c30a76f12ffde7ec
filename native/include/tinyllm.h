/* tinyllm: C ABI of libtinyllm.so. The only public header.
 *
 * Rules: handles are opaque; structs that the caller fills in begin with their size (`struct_size`, set to sizeof the
 * struct it was compiled with); every function that can fail returns a tl_status and leaves a message for
 * tl_last_error() on the calling thread; no exception and no C++ type crosses; nothing aborts the process.
 * Sizes are bytes, times are milliseconds, token positions count from 0. Strings are UTF-8 and NUL-terminated.
 */
#ifndef TINYLLM_H_
#define TINYLLM_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define TL_API __attribute__((visibility("default")))
#else
#define TL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever a struct or a function changes; the Python package refuses a library with another number. */
#define TL_ABI_VERSION 3

typedef enum tl_status {
    TL_STATUS_OK = 0,
    TL_STATUS_INVALID_ARGUMENT = 1, /* a value given to a call is wrong */
    TL_STATUS_CONFIG = 2,           /* a configuration is wrong or not supported */
    TL_STATUS_CHECKPOINT = 3,       /* a tensor handed over is wrong: name, shape, type, NaN */
    TL_STATUS_OUT_OF_MEMORY = 4,    /* of the device; the engine goes on working */
    TL_STATUS_CUDA = 5,             /* a CUDA call failed; the engine may be broken and says so */
    TL_STATUS_INTERNAL = 6,         /* a bug in tinyllm */
    TL_STATUS_CLOSED = 7,           /* the engine was closed */
    TL_STATUS_NOT_FINITE = 8        /* a request's logits are NaN or infinite */
} tl_status;

typedef enum tl_dtype { TL_DTYPE_F32 = 0, TL_DTYPE_F16 = 1, TL_DTYPE_BF16 = 2 } tl_dtype;
typedef enum tl_device_kind { TL_DEVICE_CPU = 0, TL_DEVICE_CUDA = 1 } tl_device_kind;
typedef enum tl_quantization { TL_QUANTIZATION_NONE = 0, TL_QUANTIZATION_W8A16 = 1 } tl_quantization;
typedef enum tl_rope_type {
    TL_ROPE_DEFAULT = 0,
    TL_ROPE_LINEAR = 1,
    TL_ROPE_DYNAMIC = 2,
    TL_ROPE_LLAMA3 = 3,
    TL_ROPE_YARN = 4
} tl_rope_type;
typedef enum tl_finish_reason {
    TL_FINISH_NONE = 0, /* not finished: more tokens will come */
    TL_FINISH_STOP = 1, /* an end token was sampled */
    TL_FINISH_LENGTH = 2,
    TL_FINISH_CANCELLED = 3,
    TL_FINISH_ERROR = 4 /* the event has a status, tl_queue_error() the message */
} tl_finish_reason;

/* What a model is. Shapes follow the names: q_proj is [num_heads * head_dim, hidden_dim]. */
typedef struct tl_model_config {
    uint64_t struct_size;
    int32_t vocab_size;
    int32_t hidden_dim;
    int32_t intermediate_dim;
    int32_t num_layers;
    int32_t num_heads;
    int32_t num_kv_heads;
    int32_t head_dim;
    int32_t rotary_dim;  /* the first rotary_dim of head_dim are rotated, as pairs (i, i + rotary_dim / 2) */
    int32_t max_seq_len; /* context the model was trained for; dynamic and yarn RoPE refer to it */
    int32_t dtype;       /* tl_dtype of activations, KV cache and unquantised weights; F32 on the CPU only */
    int32_t quantization;
    int32_t group_size; /* 32, 64, 128, 256, or 0: one group a row */
    float rms_norm_eps;
    float rope_theta;
    int32_t rope_type;
    float rope_factor;
    float rope_low_freq_factor;
    float rope_high_freq_factor;
    int32_t rope_original_max_seq_len;
    float rope_attention_factor; /* multiplies cos and sin */
    float rope_beta_fast;
    float rope_beta_slow;
    int32_t rope_truncate;              /* bool: yarn rounds its correction range to whole dimensions */
    int32_t sliding_window;             /* a token sees this many last positions, itself included; 0: all */
    int32_t sliding_window_first_layer; /* layers from here on use the window */
    int32_t tie_word_embeddings;        /* bools from here on */
    int32_t qkv_bias;
    int32_t o_bias;
    int32_t mlp_bias;
    int32_t qk_norm;
    int32_t rope_freq_factors; /* a tensor "rope_freqs.weight" [rotary_dim / 2] divides the frequencies */
    int32_t recompute_activations;
} tl_model_config;

typedef struct tl_engine_config {
    uint64_t struct_size;
    int32_t device_kind;
    int32_t device_index;
    int32_t max_batch_size;  /* sequences that run at the same time */
    int32_t max_seq_len;     /* tokens a sequence may have, prompt included */
    int32_t num_pages;       /* pages of the KV pool; 0: enough for max_batch_size full sequences */
    int32_t max_step_tokens; /* prompt tokens of one step at most; 0: the device's default */
    int32_t prefill_chunk;   /* the same in steps in which other requests generate; 0: the device's default */
} tl_engine_config;

/* Sampling and limits of one request. */
typedef struct tl_generation_config {
    uint64_t struct_size;
    int32_t max_new_tokens;   /* 0: none (prompt logits only); the context's end always ends a request */
    float temperature;        /* 0: greedy */
    int32_t top_k;            /* 0: off */
    float top_p;              /* 1: off */
    float min_p;              /* 0: off */
    float repetition_penalty; /* 1: off */
    int32_t logprobs;         /* bool: events carry the log-softmax of the raw logits at the token */
    uint64_t seed;
    const int32_t* stop_token_ids; /* sampling one of these ends the request with TL_FINISH_STOP */
    int32_t num_stop_token_ids;
} tl_generation_config;

/* One token of one request, or its end. token_id is -1 where the end brought no token (cancelled, error). */
typedef struct tl_event {
    uint64_t request_id;
    int32_t token_id;
    float logprob; /* NaN unless asked for */
    int32_t finish_reason;
    int32_t status; /* tl_status of an error */
    int32_t prompt_tokens;
    int32_t generated_tokens;
    double queued_ms; /* submit to the first step that ran it */
    double ttft_ms;   /* submit to first token; 0 before it */
    double total_ms;  /* submit to this event */
} tl_event;

typedef struct tl_device_info {
    uint64_t struct_size;
    int32_t device_kind;
    int32_t device_index;
    int32_t usable;             /* bool: the library's backend can run a model here */
    int32_t compute_capability; /* 10 * major + minor; 0 on the CPU */
    int32_t num_units;          /* CPU threads that tinyllm uses, or SMs */
    uint64_t free_bytes;
    uint64_t total_bytes;
    char name[128];
    char description[256]; /* instruction sets in use, or why the device is not usable */
} tl_device_info;

/* One line of a memory plan: one allocation. */
typedef struct tl_plan_entry {
    char
        component[32]; /* "weights", "scales", "embedding", "norms", "kv_cache", "activations", "logits", "workspace" */
    char name[64];
    char dtype[16];
    int64_t shape[4];
    int32_t num_dims;
    int32_t reserved;
    uint64_t bytes;
} tl_plan_entry;

/* A tensor of a checkpoint. Names are Hugging Face's without the leading "model."; a matrix is
 * [out_features, in_features]. */
typedef struct tl_tensor_spec {
    char name[64];
    int64_t shape[2];
    int32_t num_dims; /* 2: a matrix; 1: a vector */
    int32_t again;    /* bool: the list has it already. A tied embedding, which is quantised again once it is known how
                       * much its inputs count as the output matrix */
} tl_tensor_spec;

/* What the tracker knows of one component. */
typedef struct tl_memory_stats {
    char component[32];
    uint64_t current_bytes;
    uint64_t peak_bytes;
    uint64_t total_bytes; /* ever allocated */
    uint64_t live_count;
    uint64_t total_count;
} tl_memory_stats;

/* One live allocation; file and line are empty unless built with CUDA_MEMORY_TRACKING. */
typedef struct tl_allocation {
    char component[32];
    char name[64];
    char file[192];
    int32_t line;
    int32_t reserved;
    uint64_t bytes;
} tl_allocation;

/* Memory that an engine takes beside its plan. */
typedef struct tl_overhead_entry {
    char name[64];
    int32_t on_device;    /* bool: of a GPU; else of the host */
    int32_t only_loading; /* bool: gone once the weights are loaded */
    uint64_t bytes;       /* at most */
} tl_overhead_entry;

/* A device's memory, and what a GPU's driver has taken of it for this process, by its own count of free bytes, which
 * moves in steps of 2 MB. On the CPU everything from lost_bytes on is 0. */
typedef struct tl_device_memory {
    uint64_t struct_size;
    uint64_t free_bytes;
    uint64_t total_bytes;
    int64_t lost_bytes;         /* free before the process had a CUDA context, less free now: what the engine has
                                 * allocated, and the sum of the following */
    int64_t context_bytes;      /* 0 where not known: made by other code of the process, or the driver has no NVML */
    int64_t module_bytes;       /* code of the kernels used so far, streams and events */
    int64_t reserve_bytes;      /* held back for the code of kernels to come */
    int64_t graph_bytes;        /* captured steps, of all engines */
    int64_t pool_bytes;         /* held by the engine's memory pool but not allocated */
    int64_t other_engine_bytes; /* held by the pools of the process's other engines */
    int64_t unexplained_bytes;  /* the rest: other processes, other code of this one */
} tl_device_memory;

/* A request to submit. */
typedef struct tl_request {
    const int32_t* token_ids;
    const tl_generation_config* config;
    float* prompt_logits; /* null, or receives float32 [num_tokens, vocab_size] as the prompt is processed; must stay
                           * valid until the request's last event or the end of tl_queue_destroy() */
    int32_t num_tokens;
    int32_t reserved;
} tl_request;

typedef struct tl_engine tl_engine;
typedef struct tl_queue tl_queue;

TL_API int32_t tl_abi_version(void);
TL_API const char* tl_version(void);
/* One line: version, compiler, backends and GPU architectures in this library. */
TL_API const char* tl_build_info(void);
/* Message of the last failure on the calling thread; "" if none. Valid until the thread's next failure. */
TL_API const char* tl_last_error(void);

/* Devices this library knows: the CPU first, then every GPU the driver shows, usable or not. */
TL_API tl_status tl_device_count(int32_t* count);
TL_API tl_status tl_device_info_get(int32_t index, tl_device_info* info);

/* The tensors of a model's checkpoint in the order of the forward pass, which is the best one to load them in; as
 * tl_plan for `entries` and `count`. */
TL_API tl_status tl_model_tensors(const tl_model_config* model, tl_tensor_spec* entries, int32_t capacity,
                                  int32_t* count);

/* The plan of a configuration, computed without a device and without allocating. With `entries` null only `count` is
 * set; otherwise at most `capacity` entries are written and `count` is the full number. */
TL_API tl_status tl_plan(const tl_model_config* model, const tl_engine_config* engine, tl_plan_entry* entries,
                         int32_t capacity, int32_t* count);

/* What an engine takes beside the plan, the CUDA driver's own memory apart; as tl_plan for `entries` and `count`. Not
 * in it: the tensor that the caller hands over. */
TL_API tl_status tl_plan_overhead(const tl_model_config* model, const tl_engine_config* engine,
                                  tl_overhead_entry* entries, int32_t capacity, int32_t* count);
/* The largest max_seq_len (a multiple of the page of 64 tokens, at most `limit`), and the largest max_batch_size (at
 * most `limit`), with which an engine can be made and loaded in `bytes` of its device, all else as in `engine` but
 * num_pages, which is 0; 0 if none can. */
TL_API tl_status tl_plan_max_seq_len(const tl_model_config* model, const tl_engine_config* engine, uint64_t bytes,
                                     int32_t limit, int32_t* max_seq_len);
TL_API tl_status tl_plan_max_batch(const tl_model_config* model, const tl_engine_config* engine, uint64_t bytes,
                                   int32_t limit, int32_t* max_batch);

/* Allocates everything the plan names. Weights are then handed over with tl_engine_load_tensor, in any order. */
TL_API tl_status tl_engine_create(const tl_model_config* model, const tl_engine_config* engine, tl_engine** out);
/* `name` is canonical ("layers.0.self_attn.q_proj.weight"); `data` is row-major, only read during the call, and may be
 * unaligned. The tensor is checked (shape, NaN, Inf) and quantised on the way. Each tensor comes once. W8A16 is most
 * accurate in the order of tl_model_tensors(), in which a tied embedding comes a second time. */
TL_API tl_status tl_engine_load_tensor(tl_engine* engine, const char* name, int32_t dtype, const int64_t* shape,
                                       int32_t num_dims, const void* data);
/* After the last tensor: fails naming tensors that never came. Requests are accepted from here on. */
TL_API tl_status tl_engine_finish_load(tl_engine* engine);
/* Instead of loading, for benchmarks: made-up weights. */
TL_API tl_status tl_engine_fill_random(tl_engine* engine, uint64_t seed);

/* Ends all requests, waits for the calls of other threads, and gives all memory back. Later calls give
 * TL_STATUS_CLOSED; closing again does nothing, and waits for the call that closes. Callable from any thread. */
TL_API tl_status tl_engine_close(tl_engine* engine);
/* Whether tl_engine_close() was called; its last calls may still be running. */
TL_API int32_t tl_engine_closed(const tl_engine* engine);
/* Closes the engine, frees the handle and sets it to null; null is allowed. No other call may be using the handle. */
TL_API void tl_engine_destroy(tl_engine** engine);

/* A queue takes the events of a caller's requests; steps run on a thread of the library, from the first request on.
 * One queue for as many requests as shall be waited for together. Calls on a queue may come from any thread. */
TL_API tl_status tl_queue_create(tl_engine* engine, tl_queue** out);
/* Checks all requests, then queues all of them, so that they start together; `first_id` is the id of the first, the
 * others follow. If one is wrong none is queued. */
TL_API tl_status tl_queue_submit(tl_queue* queue, const tl_request* requests, int32_t num_requests, uint64_t* first_id);
/* Takes at most `capacity` events, those of a request in order; waits up to `timeout_ms` for the first one. `count` 0:
 * none came in time, or all requests of the queue have ended. */
TL_API tl_status tl_queue_wait(tl_queue* queue, tl_event* events, int32_t capacity, int32_t timeout_ms, int32_t* count);
/* Copies the message of a request that ended with TL_FINISH_ERROR, cut to `size` bytes with its NUL; "" for others. */
TL_API tl_status tl_queue_error(tl_queue* queue, uint64_t request_id, char* text, int32_t size);
/* Ends a request; its pages are free with its last event. Unknown or finished ids are no error. */
TL_API tl_status tl_queue_cancel(tl_queue* queue, uint64_t request_id);
/* Ends all requests of the queue and waits, for one step at most, until the engine has let go of them. */
TL_API tl_status tl_queue_close(tl_queue* queue);
/* Ends all requests of the queue, frees the handle and sets it to null; null is allowed. Waits only where requests
 * have prompt_logits. No other call may be using the handle. */
TL_API void tl_queue_destroy(tl_queue** queue);

TL_API tl_status tl_engine_plan(const tl_engine* engine, tl_plan_entry* entries, int32_t capacity, int32_t* count);
TL_API tl_status tl_engine_memory(const tl_engine* engine, tl_memory_stats* stats, int32_t capacity, int32_t* count);
/* Live allocations; as tl_plan for `entries` and `count`. */
TL_API tl_status tl_engine_allocations(const tl_engine* engine, tl_allocation* entries, int32_t capacity,
                                       int32_t* count);
/* The engine's device now. */
TL_API tl_status tl_engine_device_memory(const tl_engine* engine, tl_device_memory* memory);
/* Pages of the KV pool: free now and in all. */
TL_API tl_status tl_engine_pages(const tl_engine* engine, int32_t* free_pages, int32_t* total_pages);

#ifdef __cplusplus
}
#endif

#endif /* TINYLLM_H_ */
