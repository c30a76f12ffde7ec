"""The C ABI of native/include/tinyllm.h: structs and signatures; a test compares them with the header."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_char, c_char_p, c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from typing import ClassVar

ABI_VERSION = 3


class CModelConfig(Structure):
    _fields_: ClassVar = [
        ("struct_size", c_uint64),
        ("vocab_size", c_int32),
        ("hidden_dim", c_int32),
        ("intermediate_dim", c_int32),
        ("num_layers", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("rotary_dim", c_int32),
        ("max_seq_len", c_int32),
        ("dtype", c_int32),
        ("quantization", c_int32),
        ("group_size", c_int32),
        ("rms_norm_eps", c_float),
        ("rope_theta", c_float),
        ("rope_type", c_int32),
        ("rope_factor", c_float),
        ("rope_low_freq_factor", c_float),
        ("rope_high_freq_factor", c_float),
        ("rope_original_max_seq_len", c_int32),
        ("rope_attention_factor", c_float),
        ("rope_beta_fast", c_float),
        ("rope_beta_slow", c_float),
        ("rope_truncate", c_int32),
        ("sliding_window", c_int32),
        ("sliding_window_first_layer", c_int32),
        ("tie_word_embeddings", c_int32),
        ("qkv_bias", c_int32),
        ("o_bias", c_int32),
        ("mlp_bias", c_int32),
        ("qk_norm", c_int32),
        ("rope_freq_factors", c_int32),
        ("recompute_activations", c_int32),
    ]


class CEngineConfig(Structure):
    _fields_: ClassVar = [
        ("struct_size", c_uint64),
        ("device_kind", c_int32),
        ("device_index", c_int32),
        ("max_batch_size", c_int32),
        ("max_seq_len", c_int32),
        ("num_pages", c_int32),
        ("max_step_tokens", c_int32),
        ("prefill_chunk", c_int32),
    ]


class CGenerationConfig(Structure):
    _fields_: ClassVar = [
        ("struct_size", c_uint64),
        ("max_new_tokens", c_int32),
        ("temperature", c_float),
        ("top_k", c_int32),
        ("top_p", c_float),
        ("min_p", c_float),
        ("repetition_penalty", c_float),
        ("logprobs", c_int32),
        ("seed", c_uint64),
        ("stop_token_ids", POINTER(c_int32)),
        ("num_stop_token_ids", c_int32),
    ]


class CEvent(Structure):
    _fields_: ClassVar = [
        ("request_id", c_uint64),
        ("token_id", c_int32),
        ("logprob", c_float),
        ("finish_reason", c_int32),
        ("status", c_int32),
        ("prompt_tokens", c_int32),
        ("generated_tokens", c_int32),
        ("queued_ms", c_double),
        ("ttft_ms", c_double),
        ("total_ms", c_double),
    ]


class CRequest(Structure):
    _fields_: ClassVar = [
        ("token_ids", POINTER(c_int32)),
        ("config", POINTER(CGenerationConfig)),
        ("prompt_logits", c_void_p),
        ("num_tokens", c_int32),
        ("reserved", c_int32),
    ]


class CDeviceInfo(Structure):
    _fields_: ClassVar = [
        ("struct_size", c_uint64),
        ("device_kind", c_int32),
        ("device_index", c_int32),
        ("usable", c_int32),
        ("compute_capability", c_int32),
        ("num_units", c_int32),
        ("free_bytes", c_uint64),
        ("total_bytes", c_uint64),
        ("name", c_char * 128),
        ("description", c_char * 256),
    ]


class CPlanEntry(Structure):
    _fields_: ClassVar = [
        ("component", c_char * 32),
        ("name", c_char * 64),
        ("dtype", c_char * 16),
        ("shape", c_int64 * 4),
        ("num_dims", c_int32),
        ("reserved", c_int32),
        ("bytes", c_uint64),
    ]


class CTensorSpec(Structure):
    _fields_: ClassVar = [
        ("name", c_char * 64),
        ("shape", c_int64 * 2),
        ("num_dims", c_int32),
        ("again", c_int32),
    ]


class CMemoryStats(Structure):
    _fields_: ClassVar = [
        ("component", c_char * 32),
        ("current_bytes", c_uint64),
        ("peak_bytes", c_uint64),
        ("total_bytes", c_uint64),
        ("live_count", c_uint64),
        ("total_count", c_uint64),
    ]


class CAllocation(Structure):
    _fields_: ClassVar = [
        ("component", c_char * 32),
        ("name", c_char * 64),
        ("file", c_char * 192),
        ("line", c_int32),
        ("reserved", c_int32),
        ("bytes", c_uint64),
    ]


class COverheadEntry(Structure):
    _fields_: ClassVar = [
        ("name", c_char * 64),
        ("on_device", c_int32),
        ("only_loading", c_int32),
        ("bytes", c_uint64),
    ]


class CDeviceMemory(Structure):
    _fields_: ClassVar = [
        ("struct_size", c_uint64),
        ("free_bytes", c_uint64),
        ("total_bytes", c_uint64),
        ("lost_bytes", c_int64),
        ("context_bytes", c_int64),
        ("module_bytes", c_int64),
        ("reserve_bytes", c_int64),
        ("graph_bytes", c_int64),
        ("pool_bytes", c_int64),
        ("other_engine_bytes", c_int64),
        ("unexplained_bytes", c_int64),
    ]


# Structs of the ABI under their C names; a test compares them with the header.
STRUCTS = {
    "tl_model_config": CModelConfig,
    "tl_engine_config": CEngineConfig,
    "tl_generation_config": CGenerationConfig,
    "tl_event": CEvent,
    "tl_request": CRequest,
    "tl_device_info": CDeviceInfo,
    "tl_plan_entry": CPlanEntry,
    "tl_tensor_spec": CTensorSpec,
    "tl_memory_stats": CMemoryStats,
    "tl_allocation": CAllocation,
    "tl_overhead_entry": COverheadEntry,
    "tl_device_memory": CDeviceMemory,
}

_I32, _U64 = POINTER(c_int32), POINTER(c_uint64)
# Functions that return a tl_status: name -> argument types.
FUNCTIONS = {
    "tl_device_count": [_I32],
    "tl_device_info_get": [c_int32, POINTER(CDeviceInfo)],
    "tl_model_tensors": [POINTER(CModelConfig), POINTER(CTensorSpec), c_int32, _I32],
    "tl_plan": [POINTER(CModelConfig), POINTER(CEngineConfig), POINTER(CPlanEntry), c_int32, _I32],
    "tl_plan_overhead": [POINTER(CModelConfig), POINTER(CEngineConfig), POINTER(COverheadEntry), c_int32, _I32],
    "tl_plan_max_seq_len": [POINTER(CModelConfig), POINTER(CEngineConfig), c_uint64, c_int32, _I32],
    "tl_plan_max_batch": [POINTER(CModelConfig), POINTER(CEngineConfig), c_uint64, c_int32, _I32],
    "tl_engine_create": [POINTER(CModelConfig), POINTER(CEngineConfig), POINTER(c_void_p)],
    "tl_engine_load_tensor": [c_void_p, c_char_p, c_int32, POINTER(c_int64), c_int32, c_void_p],
    "tl_engine_finish_load": [c_void_p],
    "tl_engine_fill_random": [c_void_p, c_uint64],
    "tl_engine_close": [c_void_p],
    "tl_queue_create": [c_void_p, POINTER(c_void_p)],
    "tl_queue_submit": [c_void_p, POINTER(CRequest), c_int32, _U64],
    "tl_queue_wait": [c_void_p, POINTER(CEvent), c_int32, c_int32, _I32],
    "tl_queue_error": [c_void_p, c_uint64, c_char_p, c_int32],
    "tl_queue_cancel": [c_void_p, c_uint64],
    "tl_queue_close": [c_void_p],
    "tl_engine_plan": [c_void_p, POINTER(CPlanEntry), c_int32, _I32],
    "tl_engine_memory": [c_void_p, POINTER(CMemoryStats), c_int32, _I32],
    "tl_engine_allocations": [c_void_p, POINTER(CAllocation), c_int32, _I32],
    "tl_engine_device_memory": [c_void_p, POINTER(CDeviceMemory)],
    "tl_engine_pages": [c_void_p, _I32, _I32],
}
# The others: name -> (argument types, result type).
OTHER_FUNCTIONS = {
    "tl_abi_version": ([], c_int32),
    "tl_version": ([], c_char_p),
    "tl_build_info": ([], c_char_p),
    "tl_last_error": ([], c_char_p),
    "tl_engine_closed": ([c_void_p], c_int32),
    "tl_engine_destroy": ([POINTER(c_void_p)], None),
    "tl_queue_destroy": ([POINTER(c_void_p)], None),
    "tl_debug_fail_allocation": ([c_int64], None),
    "tl_debug_live_bytes": ([], c_uint64),
}
