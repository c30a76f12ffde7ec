"""GGUF checkpoints: one file with metadata, tokenizer and tensors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...errors import CheckpointError
from ..base import Checkpoint, TensorInfo
from ..generation import gguf_generation_defaults
from ..schema import match_tensors
from ..settings import Settings
from .config import ARCHITECTURES, read_model_config
from .file import loadable_types, read_gguf_tensors
from .header import GgufHeader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ...tokenization.tokenizer import Tokenizer

_TOP_LEVEL_NAMES = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "rope_freqs.weight": "rope_freqs.weight",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER_TENSOR = re.compile(r"layers\.(\d+)\.(.+)\.(weight|bias)")

# RoPE frequencies that early converters copied from transformers; they follow from the metadata.
_HARMLESS_TENSOR = re.compile(r"blk\.\d+\.attn_rot_embd(\.weight)?")


class GgufCheckpoint(Checkpoint):
    """A GGUF file of architecture llama, qwen2 or qwen3, with tensors of any type the gguf package dequantises.

    Embeddings are tied if the file has no output matrix; biases are there if the first layer has them.
    """

    format = "gguf"

    def __init__(self, path: Path) -> None:
        header = GgufHeader(path)
        self._header: GgufHeader | None = header
        self.heap_bytes = header.heap_bytes
        general = Settings(header.section("general."), f"{path}: general")
        split = Settings(header.section("split."), f"{path}: split")
        architecture = _architecture(general, split)
        tokens = header.get_field("tokenizer.ggml.tokens")
        if tokens is not None and tokens.count is None:
            raise CheckpointError(f"{tokens.where} must be a list of strings; found {tokens.contents()!r:.80}")
        config = read_model_config(
            Settings(header.section(f"{architecture}."), f"{path}: {architecture}"),
            architecture,
            num_tokens=None if tokens is None else tokens.count,
            tensor_types={tensor.name: tensor.kind.name for tensor in header.tensors},
        )
        permuted = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads} if architecture == "llama" else {}
        self._tensors = read_gguf_tensors(
            header, {f".{name}.{kind}": heads for name, heads in permuted.items() for kind in ("weight", "bias")}
        )
        super().__init__(
            path,
            config,
            gguf_generation_defaults(header.section("general.sampling."), f"{path}: general.sampling"),
            files=[header.file],
            has_tokenizer=tokens is not None,
        )

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self.tokenizer.eos_token_ids if self.has_tokenizer else ()

    @property
    def rope_freq_factors(self) -> bool:
        return _stored_name("rope_freqs.weight") in self._tensors

    def check(self) -> None:
        self._matched()

    def tensors(self) -> Iterator[TensorInfo]:
        return iter(self._matched())

    def close(self) -> None:
        super().close()
        self._drop_source()

    def _drop_source(self) -> None:
        self._header = None  # its copy takes megabytes, and nothing else needs it once the tokenizer is made

    def _matched(self) -> list[TensorInfo]:
        return match_tensors(
            self.config,
            self._tensors,
            self.path,
            stored_name=_stored_name,
            loadable_types=loadable_types(),
            is_harmless=lambda name: _HARMLESS_TENSOR.fullmatch(name) is not None,
            rope_freq_factors=self.rope_freq_factors,
        )

    def keep_tokenizer(self) -> None:
        """Nothing to do: the header is held until the tokenizer is made."""

    def _open_tokenizer(self) -> Tokenizer:
        from ...tokenization.gguf import load_gguf_tokenizer

        header = self._header
        if header is not None:
            return load_gguf_tokenizer(header, self.path)  # type: ignore[arg-type]  # it calls get_field alone
        if (made := self._made.get("tokenizer")) is not None:  # by another thread, just now
            return made
        raise CheckpointError(f"{self.path}: the checkpoint was closed before its tokenizer was made")


def _architecture(general: Settings, split: Settings) -> str:
    """The architecture's name, if tinyllm can run the file. Raises CheckpointError."""
    kind = general.text("type", "model")
    if kind != "model":
        raise general.wrong("type", "'model'")
    if split.integer("count", 1) > 1:
        raise split.wrong("count", "1: join the parts with `llama-gguf-split --merge` of llama.cpp first")
    architecture: str = general.text("architecture")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{general.source}: architecture {architecture!r} is not supported; supported: {', '.join(ARCHITECTURES)}"
        )
    return architecture


def _stored_name(name: str) -> str:
    """GGUF's name of a tensor, from its canonical name."""
    layer_tensor = _LAYER_TENSOR.fullmatch(name)
    if layer_tensor is None:
        return _TOP_LEVEL_NAMES[name]
    layer, module, kind = layer_tensor.groups()
    return f"blk.{layer}.{_LAYER_NAMES[module]}.{kind}"
