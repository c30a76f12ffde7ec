"""What earlier runs and public bug reports found, made by code: name -> a change to a well-formed case.

Every one of them must be refused with CheckpointError. tests/python/checkpoints holds more, with the words expected.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from .trees import ARRAY, TEXT, GgufEntry, GgufTree, SafetensorsTree, read_gguf, read_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .mutate import Case


def findings(gguf: Case, huggingface: Case) -> Iterator[tuple[str, Case]]:
    """(name, case) of everything found, made from a GGUF checkpoint and a Hugging Face one."""
    for name, change in _GGUF.items():
        tree = read_gguf(gguf["model.gguf"])
        change(tree)
        yield f"gguf: {name}", {"model.gguf": tree.to_bytes()}
    for name, change_file in _SAFETENSORS.items():
        stored = read_safetensors(huggingface["model.safetensors"])
        change_file(stored)
        yield f"safetensors: {name}", {**huggingface, "model.safetensors": stored.to_bytes()}
    for name, changes in _CONFIG.items():
        config = {**json.loads(huggingface["config.json"]), **changes}
        yield f"config: {name}", {**huggingface, "config.json": json.dumps(config).encode()}
    for name, (file, content) in _FILES.items():
        yield f"{file}: {name}", {**huggingface, file: content}


def _no_dimensions(tree: GgufTree) -> None:
    tree.tensors[0].dimensions = []


def _unaligned(tree: GgufTree) -> None:
    tree.tensors[0].offset += 2


def _overlap(tree: GgufTree) -> None:
    tree.tensors[1].offset = tree.tensors[0].offset


def _alignment(value: int) -> Callable[[GgufTree], None]:
    return lambda tree: tree.entries.append(GgufEntry(b"general.alignment", 4, value))


def _nested(depth: int) -> Callable[[GgufTree], None]:
    deep = struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQ", 0, 0)
    return lambda tree: tree.entries.append(GgufEntry(b"deep", ARRAY, [deep], item_kind=ARRAY))


def _set(name: bytes, **fields: Any) -> Callable[[GgufTree], None]:
    def change(tree: GgufTree) -> None:
        entry = next(entry for entry in tree.entries if entry.name.endswith(name))
        for field, value in fields.items():
            setattr(entry, field, value)

    return change


_GGUF: dict[str, Callable[[GgufTree], None]] = {
    "a tensor without dimensions": _no_dimensions,
    "an unaligned tensor": _unaligned,
    "two tensors in one place": _overlap,
    "alignment 0": _alignment(0),
    "alignment 24": _alignment(24),
    "arrays 1,200 deep": _nested(1_200),
    "arrays 100,000 deep": _nested(100_000),
    "an array of 2^61 numbers": _set(b".tokens", item_kind=4, count=2**61),
    "tokens that are one text": _set(b".tokens", kind=TEXT, value=b"abc"),
    "an architecture that is a list": _set(b"general.architecture", kind=ARRAY, item_kind=TEXT, value=[b"llama"]),
    "a file of 2^63 tensors": lambda tree: setattr(tree, "num_tensors", 2**63),
    "a name that is not UTF-8": lambda tree: setattr(tree.tensors[0], "name", b"\xff"),
}


def _many_dimensions(tree: SafetensorsTree) -> None:
    next(entry for entry in tree.header.values() if "shape" in entry)["shape"] = [2**62] * 2_000


def _shape(shape: Any) -> Callable[[SafetensorsTree], None]:
    def change(tree: SafetensorsTree) -> None:
        next(entry for entry in tree.header.values() if "shape" in entry)["shape"] = shape

    return change


_SAFETENSORS: dict[str, Callable[[SafetensorsTree], None]] = {
    "thousands of dimensions": _many_dimensions,
    "a size beyond 64 bits": _shape([2**70]),
    "a size that is text": _shape(["1"]),
    "a header longer than the file": lambda tree: setattr(tree, "header_bytes", 2**40),
    "bytes after the tensors": lambda tree: setattr(tree, "data", tree.data + b"garbage"),
}

_YARN = {"rope_type": "yarn", "factor": 2.718281828459045, "mscale": 1.0, "mscale_all_dim": -10.0}
_CONFIG: dict[str, dict[str, Any]] = {
    "a YaRN factor of 0": {"rope_scaling": {"rope_type": "yarn", "factor": 0}},
    "a YaRN divisor of 0": {"rope_scaling": _YARN},
    "attention in both directions": {"is_causal": False},
    "another scale of attention": {"attention_multiplier": 1.0},
    "millions of layers": {"num_hidden_layers": 2**31 - 1},
}

_FILES: dict[str, tuple[str, bytes]] = {
    "nested 900 deep": ("config.json", b'{"a": ' * 900 + b"1" + b"}" * 900),
    "nested 100,000 deep": ("generation_config.json", b"[" * 100_000),
    "a number without end": ("config.json", b'{"vocab_size": ' + b"9" * 5_000 + b"}"),
    "not UTF-8": ("config.json", b"\xff\xfe"),
    "text after the end": ("config.json", b"{} {}"),
}
