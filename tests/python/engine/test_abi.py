"""The C ABI: ctypes and the header agree, and bad arguments give a status, never a crash."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tinyllm import KVCacheConfig, ModelConfig
from tinyllm._native import abi
from tinyllm._native import engine as native

HEADER = Path(__file__).resolve().parents[3] / "native" / "include" / "tinyllm.h"


def test_structs_match_the_header(tmp_path: Path) -> None:
    """A C compiler prints every size and offset of the header.

    A field that only one side has does not compile or changes a size.
    """
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "g++"))), None)
    assert compiler, "no C compiler, although the library was built here"
    lines = []
    for name, struct in abi.STRUCTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        lines += [
            f'printf("{name}.{field} %zu\\n", offsetof(struct {name}, {field}));' for field, *_ in struct._fields_
        ]
    source = tmp_path / "layout.c"
    source.write_text(f'#include <stdio.h>\n#include "{HEADER}"\nint main(void) {{ {" ".join(lines)} return 0; }}\n')
    subprocess.run([compiler, "-Wall", "-Werror", str(source), "-o", str(tmp_path / "layout")], check=True)
    printed = subprocess.run([str(tmp_path / "layout")], check=True, capture_output=True, text=True).stdout
    native = {name: int(value) for name, value in (line.split() for line in printed.splitlines())}
    expected = {}
    for name, struct in abi.STRUCTS.items():
        expected[name] = ctypes.sizeof(struct)
        expected |= {f"{name}.{field}": getattr(struct, field).offset for field, *_ in struct._fields_}
    assert native == expected


def test_the_abi_version_is_the_headers() -> None:
    defined = next(line for line in HEADER.read_text().splitlines() if line.startswith("#define TL_ABI_VERSION"))
    assert int(defined.split()[-1]) == abi.ABI_VERSION == native.library().tl_abi_version()


def test_every_function_of_the_header_is_exported() -> None:
    text = HEADER.read_text()
    declared = set(re.findall(r"^TL_API [^;(]*?(tl_\w+)\(", text, re.MULTILINE))
    assert len(declared) > 20
    for name in declared:
        assert hasattr(native.library(), name)


@pytest.mark.parametrize("name", sorted(abi.FUNCTIONS))
def test_null_arguments_are_errors(name: str) -> None:
    arguments = [0 if t in (ctypes.c_int32, ctypes.c_uint64) else None for t in abi.FUNCTIONS[name]]
    status = getattr(native.library(), name)(*arguments)
    assert status == 1
    assert b"null" in native.library().tl_last_error()


def test_null_handles_are_harmless_where_nothing_is_returned() -> None:
    native.library().tl_engine_destroy(None)
    assert native.library().tl_engine_closed(None) == 0


def test_a_struct_of_another_size_is_refused() -> None:
    config = abi.CModelConfig(struct_size=4)
    engine = native.engine_struct("cpu", 0, KVCacheConfig(), None)
    count = ctypes.c_int32()
    status = native.library().tl_plan(ctypes.byref(config), ctypes.byref(engine), None, 0, ctypes.byref(count))
    assert status == 1
    assert b"struct_size = 4" in native.library().tl_last_error()


def test_the_tensors_of_a_model() -> None:
    config = ModelConfig(
        vocab_size=50, hidden_dim=32, intermediate_dim=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=10
    )
    listed = native.model_tensors(native.model_struct(config))
    assert len(listed) == 1 + 2 * 9 + 2
    shapes = {tensor.name: tensor.shape[: tensor.num_dims] for tensor in listed}
    assert shapes[b"layers.1.self_attn.k_proj.weight"] == [20, 32]
    assert shapes[b"layers.1.mlp.down_proj.weight"] == [32, 48]
    assert shapes[b"norm.weight"] == [32]
    assert listed[-1].name == b"lm_head.weight"
    assert not any(tensor.again for tensor in listed)


@pytest.mark.parametrize("quantization", ["w8a16", "none"])
def test_a_tied_embedding_comes_again_where_it_is_quantized(quantization: str) -> None:
    config = ModelConfig(
        vocab_size=50,
        hidden_dim=32,
        intermediate_dim=48,
        num_layers=1,
        num_heads=4,
        tie_word_embeddings=True,
        quantization=quantization,
    )
    listed = native.model_tensors(native.model_struct(config, rope_freq_factors=True))
    again = [tensor.name for tensor in listed if tensor.again]
    assert again == ([b"embed_tokens.weight"] if quantization == "w8a16" else [])
    assert (listed[0].name, listed[0].shape[0]) == (b"rope_freqs.weight", 4)
    assert [tensor.name for tensor in listed][-1] == (again or [b"norm.weight"])[0]
