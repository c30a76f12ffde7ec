"""`load`: from a checkpoint to a model that is ready to generate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._checks import is_finite_number
from ._native import engine as native
from ._native.devices import Device, resolve_device
from .checkpoints import Checkpoint, open_checkpoint
from .checkpoints.rope import warn_beyond_context
from .config import KVCacheConfig, ModelConfig, QuantizationType
from .errors import CheckpointError, ConfigError, OutOfMemoryError
from .memory.planning import auto_kv_cache, default_kv_cache, driver_estimates, engine_config
from .model import Model
from .progress import is_watched, load_bar

if TYPE_CHECKING:
    import os


def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    quantization: QuantizationType | str = QuantizationType.W8A16,
    group_size: int = 128,
    kv_cache: KVCacheConfig | str | None = None,
    *,
    memory_fraction: float | None = None,
    dtype: str = "auto",
    max_step_tokens: int | None = None,
    prefill_chunk: int | None = None,
    recompute_activations: bool = False,
    progress: bool | None = None,
) -> Model:
    """Load a model and make it ready to generate.

    Args:
        path: Hugging Face directory, GGUF file, or a name owner/model on the Hugging Face Hub.
        device: "auto" (first usable GPU, else the CPU), "cpu", "cuda" or "cuda:N".
        quantization: W8A16 (int8 weights, quantised while loading) or NONE (16-bit weights).
        group_size: inputs that share one scale: 32, 64, 128, 256, or 0 for one group a row.
        kv_cache: size of the KV cache, allocated now; by default one sequence of at most 2048 tokens. "auto" fills
            `memory_fraction` of the device's free memory: the model's whole context if it fits, then more sequences.
        memory_fraction: only with kv_cache="auto", above 0 and at most 1. None is 0.9 on a GPU; on the CPU, whose
            memory others use too, the cache takes a quarter of what the weights leave of that, for at most 8 sequences.
        dtype: "float16", "bfloat16" or (CPU only) "float32" for activations and the KV cache; "auto" is the
            checkpoint's own 16-bit type, bfloat16 where it is float32 (float16 would not hold every float32 model).
        max_step_tokens: prompt tokens processed at once, at most 65536; None for the device's default.
        prefill_chunk: the same while other requests generate, whose next tokens wait for it; None for the device's
            default.
        recompute_activations: less activation memory for more time; the logits stay the same.
        progress: show a progress bar; None shows it on a terminal and in a notebook.

    Raises:
        ConfigError (a ValueError): an argument is wrong. CheckpointError: the checkpoint is. OutOfMemoryError: the plan
        does not fit in the device's free memory; nothing was allocated.
    """
    checkpoint = open_checkpoint(path)
    try:
        checkpoint.keep_tokenizer()
        return _load_checkpoint(
            checkpoint,
            resolve_device(device),
            engine_config(checkpoint.config, quantization, group_size, dtype, recompute_activations),
            kv_cache,
            memory_fraction,
            max_step_tokens,
            prefill_chunk,
            is_watched() if progress is None else progress,
        )
    except MemoryError as error:
        checkpoint.close()
        if isinstance(error, OutOfMemoryError):
            raise
        raise OutOfMemoryError(f"out of host memory while loading {checkpoint.path} ({error})") from error
    except BaseException:
        checkpoint.close()
        raise


def _load_checkpoint(
    checkpoint: Checkpoint,
    device: Device,
    config: ModelConfig,
    kv_cache: KVCacheConfig | str | None,
    memory_fraction: float | None,
    max_step_tokens: int | None,
    prefill_chunk: int | None,
    progress: bool,
) -> Model:
    stored = {tensor.name: tensor for tensor in checkpoint.tensors()}
    rope_freq_factors = checkpoint.rope_freq_factors
    model = native.model_struct(config, rope_freq_factors)
    # A tied embedding comes twice: only at the end is it known which of its weights matter most.
    tensors = [stored[tensor.name.decode()] for tensor in native.model_tensors(model)]
    if kv_cache == "auto":
        # `free` was asked with a context open, so the driver has what a context takes already.
        context = driver_estimates(device.kind).get("context (estimate)", 0)
        memory = int(device.free * _auto_fraction(memory_fraction)) + context
        leave_room = memory_fraction is None and device.kind == "cpu"
        kv_cache = auto_kv_cache(config, device.kind, memory, max_step_tokens, rope_freq_factors, leave_room)
    elif memory_fraction is not None:
        raise ConfigError(f"memory_fraction is for kv_cache='auto' only; got {memory_fraction!r} with {kv_cache!r}")
    elif kv_cache is None:
        kv_cache = default_kv_cache(config)
    elif not isinstance(kv_cache, KVCacheConfig):
        raise ConfigError(f"kv_cache must be a KVCacheConfig, 'auto' or None; got {kv_cache!r}")
    warn_beyond_context(config, kv_cache.max_seq_len, checkpoint.path)
    engine = native.NativeEngine(
        model,
        native.engine_struct(device.kind, device.index, kv_cache, max_step_tokens, prefill_chunk),
    )
    try:
        unread = {tensor.name: tensor.stored_bytes for tensor in tensors}  # a tensor that comes again counts once
        with load_bar(sum(unread.values()), progress) as bar:
            for tensor in tensors:
                try:
                    engine.load_tensor(tensor.name, tensor.load())
                except CheckpointError as error:
                    raise CheckpointError(f"{tensor.file}: {error}") from error
                bar.update(unread.pop(tensor.name, 0))
            checkpoint.require_unchanged()
            engine.finish_load()
            bar.refresh()
        return Model(checkpoint, config, kv_cache, device, engine)
    except BaseException:
        engine.close()
        raise


def _auto_fraction(fraction: float | None) -> float:
    if fraction is None:
        return 0.9
    if not is_finite_number(fraction) or not 0 < fraction <= 1:
        raise ConfigError(f"memory_fraction must be above 0 and at most 1; got {fraction!r}")
    return float(fraction)
