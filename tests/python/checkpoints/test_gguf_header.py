"""The header of GGUF files that nobody would write on purpose: each is refused with its reason, in bounded time."""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest

from checkpoint_files import LLAMA, model_config, random_tensors, write_gguf
from gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    I32,
    Q8_0_TENSOR,
    TEXT,
    U8,
    U32,
    U64,
    array,
    entry,
    header,
    nested_array,
    scalar,
    tensor,
    text,
)
from tinyllm.checkpoints import open_checkpoint
from tinyllm.checkpoints.gguf.header import GgufHeader
from tinyllm.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

ALIGNED = 32
MB = 1 << 20


def write(path: Path, content: bytes, data: int = 4096) -> Path:
    """A file with this header, aligned, and `data` bytes of zeros."""
    file = path / "model.gguf"
    file.write_bytes(content + bytes(-len(content) % ALIGNED + data))
    return file


def test_values_are_those_of_the_gguf_package(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("a.texts", ["", "é", "x" * 300])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.fractions", [0.5, 0.1])
    writer.add_array("a.flags", [True, False])
    writer.add_float32("a.epsilon", 1e-5)
    writer.add_float64("a.double", 1e-5)
    writer.add_uint64("a.large", 2**63)
    writer.add_int8("a.small", -3)
    writer.add_bool("a.flag", True)
    writer.add_tensor("one", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("two", np.arange(5, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found, reference = GgufHeader(path), gguf.GGUFReader(path)
    for name, field in found.fields.items():
        expected = reference.get_field(name).contents()
        assert field.contents() == (1e-5 if name == "a.epsilon" else expected), name
    assert set(found.fields) == {name for name in reference.fields if not name.startswith("GGUF.")}
    assert [(t.name, t.shape, t.offset, t.size) for t in found.tensors] == [
        (t.name, tuple(reversed(t.shape.tolist())), t.data_offset, t.n_bytes) for t in reference.tensors
    ]
    assert found.data_offset == reference.data_offset


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header([], [], version=1), "expected version 2 or 3, found 1"),
        (header([], [], version=0x03000000), "little-endian"),
        (header([], [], num_entries=2**64 - 1), "expected at most 65536 metadata keys"),
        (header([], [], num_tensors=2**63), "expected at most 65536 tensors"),
        (header([entry("k", 99, b"")], []), "'k' has the unknown type 99"),
        (header([entry(b"\xff", U8, b"\0")], []), "a metadata key is not UTF-8"),
        (header([entry("k", U8, b"\0")] * 2, []), "'k' is there more than once"),
        (header([entry("k", ARRAY, array(U64, [], 2**61))], []), "truncated: expected"),
        (header([entry("k", ARRAY, array(TEXT, [], 2**40))], []), "truncated: expected"),
        (header([entry("k", ARRAY, struct.pack("<IQQ", TEXT, 1, 2**62))], []), "truncated: expected"),
        (header([entry("k", TEXT, struct.pack("<Q", 2**64 - 1))], []), "truncated: expected"),
        (header([entry("k", ARRAY, nested_array(1))], []), "'k' is an array of arrays"),
        (header([], [tensor("t", [], 0)]), "expected 1 to 4 dimensions, found 0"),
        (header([], [text("t") + struct.pack("<I", 2**32 - 1)]), "expected 1 to 4 dimensions, found 4294967295"),
        (header([], [tensor("t", [32], 0, kind=77)]), "'t' has the unknown type 77"),
        (header([], [tensor("t", [33], 0, kind=Q8_0_TENSOR)]), "a multiple of 32 elements, found 33"),
        (header([], [tensor("t", [2**62, 2**62], 0)]), "truncated: tensor 't' is expected to end"),
        (header([], [tensor("t", [8], 2**63)]), "truncated: tensor 't' is expected to end"),
        (header([], [tensor("t", [8], 0)] * 2), "'t' is listed more than once"),
        (header([], [tensor(b"\xff", [8], 0)]), "the name of a tensor is not UTF-8"),
        (header([], [tensor("t", [8], 4)]), "'t': expected an offset that is a multiple of 32, found 4"),
        (
            header([], [tensor("a", [16], 0), tensor("b", [8], 32)]),
            "'b' overlaps tensor 'a': expected an offset of at l",
        ),
        (header([], [tensor("b", [8], 32), tensor("a", [16], 0)]), "'b' overlaps tensor 'a'"),
        (header([], [tensor("a", [8], 0), tensor("b", [8], 0)]), "'b' overlaps tensor 'a'"),
        (header([entry("general.alignment", U32, scalar(U32, 0))], []), "power of two; found 0"),
        (header([entry("general.alignment", U32, scalar(U32, 48))], []), "power of two; found 48"),
        (header([entry("general.alignment", TEXT, text("32"))], []), "power of two; found '32'"),
        (header([entry("general.alignment", I32, scalar(I32, -32))], []), "power of two; found -32"),
        (header([entry("general.alignment", ARRAY, array(U32, [32]))], []), "power of two"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = write(tmp_path, content)
    start = time.monotonic()
    with pytest.raises(CheckpointError) as error:
        GgufHeader(path)
    assert time.monotonic() - start < 2
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)


@pytest.mark.parametrize("depth", [2, 1_200, 400_000])
def test_nested_arrays_are_refused_at_once(tmp_path: Path, depth: int) -> None:
    path = write(tmp_path, header([entry("k", ARRAY, nested_array(depth))], []))
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="array of arrays"):
        open_checkpoint(path)
    assert time.monotonic() - start < 2


def test_a_header_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = write(tmp_path, header([entry("k", ARRAY, struct.pack("<IQ", U8, 2**33))], []))
    os.truncate(path, 2**34)  # sparse: takes no room
    with pytest.raises(CheckpointError, match="expected a header of at most 134217728 bytes"):
        GgufHeader(path)


def test_empty_arrays_and_tensors_are_fine(tmp_path: Path) -> None:
    entries = [entry("texts", ARRAY, array(TEXT, [])), entry("numbers", ARRAY, array(F32, []))]
    found = GgufHeader(write(tmp_path, header(entries, [tensor("a", [0], 32), tensor("b", [8], 32)])))
    assert [field.contents() for field in found.fields.values()] == [[], []]
    assert [(one.name, one.size) for one in found.tensors] == [("a", 0), ("b", 32)]


@pytest.mark.parametrize("alignment", [None, 32, 64, 4096])
def test_offsets_beyond_four_gigabytes(tmp_path: Path, alignment: int | None) -> None:
    """A stated alignment is a 32-bit number in the file, which must not make the offsets such."""
    far = 5 << 30
    entries = [] if alignment is None else [entry("general.alignment", U32, scalar(U32, alignment))]
    content = header(entries, [tensor("near", [8], 0), tensor("far", [8], far)])
    path = tmp_path / "model.gguf"
    data_offset = -(-len(content) // (alignment or 32)) * (alignment or 32)
    with path.open("wb") as file:
        file.write(content)
        file.seek(data_offset + far)  # a sparse file: nothing is stored between
        file.write(np.arange(8, dtype="<f4").tobytes())
    found = GgufHeader(path)
    assert found.tensors[1].offset == data_offset + far
    values = found.file.map_array(np.dtype("<f4"), (8,), found.tensors[1].offset)
    np.testing.assert_array_equal(values, np.arange(8, dtype=np.float32))


CONFIG = model_config(LLAMA, max_seq_len=256)
TOKENS = [f"t{i}" for i in range(48)]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"tokenizer.ggml.tokens": "abc"}, "'tokenizer.ggml.tokens' must be a list of strings; found 'abc'"),
        ({"general.architecture": ["llama"]}, "'architecture' must be a string"),
        ({"general.type": 3}, "'type' must be a string"),
        ({"split.count": "3"}, "'count' must be an integer"),
        ({"rope.freq_base": "x"}, "'rope.freq_base' must be a finite number"),
        ({"rope.freq_base": float("nan")}, "'rope.freq_base' must be a finite number"),
        ({"rope.freq_base": 1.0, "rope.scaling.type": "yarn"}, "'rope.freq_base' must be a number above 1"),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": -1.0}, "rope_factor must be a finite number"),
        ({"attention.scale": 1.0}, "unsupported 'attention.scale' = 1.0"),
        ({"rope.scaling.yarn_log_multiplier": 1.0}, "unsupported 'rope.scaling.yarn_log_multiplier' = 1.0"),
        ({"attention.causal": False}, "'attention.causal' must be true"),
        ({"general.sampling.temp": "hot"}, "'temp' must be a finite number"),
    ],
)
def test_metadata_of_wrong_type_or_value(tmp_path: Path, metadata: dict[str, Any], words: str) -> None:
    path = tmp_path / "model.gguf"
    architecture = metadata.pop("general.architecture", None)
    write_gguf(path, CONFIG, random_tensors(CONFIG), metadata={"tokenizer.ggml.tokens": TOKENS, **metadata})
    if architecture is not None:
        content = path.read_bytes()
        old = entry("general.architecture", TEXT, text("llama"))
        assert old in content
        path.write_bytes(content.replace(old, entry("general.architecture", ARRAY, array(TEXT, architecture))))
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "metadata",
    [
        {"attention.scale": 0.0, "rope.scaling.yarn_log_multiplier": 0.0, "logit_scale": 0.0, "residual_scale": 0.0},
        {"attention.causal": True, "rope.scaling.type": "yarn", "rope.scaling.factor": 0.0},
    ],
)
def test_metadata_that_changes_nothing(tmp_path: Path, metadata: dict[str, Any]) -> None:
    open_checkpoint(write_gguf(tmp_path / "model.gguf", CONFIG, random_tensors(CONFIG), metadata=metadata))


def test_text_that_is_not_utf8_is_found_where_it_is_needed(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "model.gguf",
        CONFIG,
        random_tensors(CONFIG),
        metadata={"general.name": "XXXX", "quantize.name": "YYYY"},
    )
    content = path.read_bytes()
    path.write_bytes(content.replace(b"YYYY", b"\xff\xff\xff\xff"))
    open_checkpoint(path)
    path.write_bytes(content.replace(b"XXXX", b"\xff\xff\xff\xff"))
    with pytest.raises(CheckpointError, match=r"the metadata key 'general.name' cannot be read: 'utf-8'"):
        open_checkpoint(path)


def test_a_large_vocabulary_takes_little_time_and_memory(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(200_000)]
    path = write(tmp_path, header([entry("tokenizer.ggml.tokens", ARRAY, array(TEXT, words))], []))
    start = time.monotonic()
    found = GgufHeader(path)
    assert time.monotonic() - start < 2
    assert found.data_offset - 32 < found.heap_bytes <= found.data_offset < 4 * MB
    assert found.fields["tokenizer.ggml.tokens"].contents() == words


def test_booleans_are_bytes(tmp_path: Path) -> None:
    found = GgufHeader(write(tmp_path, header([entry("k", BOOL, b"\x02")], [])))
    assert found.fields["k"].contents() is True
