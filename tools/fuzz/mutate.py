"""Changes to checkpoints that know their structure: most files get past the first check and reach the later ones.

A case is a dictionary of file name -> content; one that holds a single .gguf file is a GGUF checkpoint.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from .trees import ARRAY, SCALARS, TEXT, GgufEntry, GgufTree, read_gguf, read_safetensors

if TYPE_CHECKING:
    import random

Case = dict[str, bytes]

SIZES = [0, 1, 2, 3, 7, 31, 32, 33, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63, 2**64 - 1]
NUMBERS = [*SIZES, -1, -2, -(2**31), 0.0, -0.0, 0.5, 1.0, 1e-45, 1e-300, 1e38, 1e300, float("inf"), float("nan")]
TEXTS = ["", "x", "a" * 300, "a" * 70_000, "\x00", "\ud800", "é", "../x", "/dev/zero", "$A", "<s:1>", "{{ x", "llama"]
RAW_TEXTS = [b"", b"\xff", b"\xc3", b"a" * 300, b"\x00", b"general.alignment", b"tokenizer.ggml.tokens"]
VALUES: list[Any] = [None, True, False, *NUMBERS, *TEXTS, [], {}, [[]], [None], {"": None}, ["full_attention"] * 3]
_MOST_CHANGES = 3


def mutate(case: Case, random: random.Random) -> Case:
    """A copy of `case` with one to three changes to one of its files."""
    case = dict(case)
    name = random.choice(sorted(case))
    content = case[name]
    changes = random.randint(1, _MOST_CHANGES)
    if random.random() < 0.15:
        case[name] = _change_bytes(content, random)
    elif name.endswith(".gguf"):
        tree = read_gguf(content)
        for _ in range(changes):
            _change_gguf(tree, random)
        case[name] = tree.to_bytes()
    elif name.endswith(".safetensors"):
        stored = read_safetensors(content)
        for _ in range(changes):
            stored.header = _change_json(stored.header, random)
        if random.random() < 0.1:
            stored.header_bytes = random.choice(SIZES)
        if random.random() < 0.2:
            stored.data = _change_bytes(stored.data, random)
        case[name] = stored.to_bytes()
    elif name.endswith(".json"):
        value = json.loads(content)
        for _ in range(changes):
            value = _change_json(value, random)
        case[name] = json.dumps(value).encode()
    else:
        case[name] = _change_bytes(content, random)
    return case


def _change_bytes(content: bytes, random: random.Random) -> bytes:
    """Flip, cut, repeat or insert bytes, mostly near the start, where the headers are."""
    changed = bytearray(content)
    if not changed:
        return bytes(random.choices(range(256), k=8))
    limit = len(changed) if random.random() < 0.3 else min(len(changed), 4096)
    at = random.randrange(limit)
    kind = random.randrange(5)
    if kind == 0:
        for _ in range(random.randint(1, 8)):
            changed[random.randrange(limit)] = random.randrange(256)
    elif kind == 1:
        del changed[at:]
    elif kind == 2:
        del changed[at : at + random.randint(1, 64)]
    elif kind == 3:
        changed[at:at] = changed[at : at + random.randint(1, 64)]
    else:
        changed += bytes(random.randint(1, 64))
    return bytes(changed)


def _change_gguf(tree: GgufTree, random: random.Random) -> None:
    kind = random.randrange(12)
    if kind <= 4 and tree.entries:
        _change_entry(random.choice(tree.entries), random)
    elif kind == 5 and tree.entries:
        tree.entries.remove(random.choice(tree.entries))
    elif kind == 6 and tree.entries:
        tree.entries.append(copy.deepcopy(random.choice(tree.entries)))
    elif kind == 7:
        architecture = b"llama" if random.random() < 0.5 else b"qwen3"
        names = [b"general.alignment", b"split.count", b"general.sampling.temp", architecture + b".rope.scaling.type"]
        tree.entries.append(GgufEntry(random.choice(names), 4, random.choice(SIZES)))
        _change_entry(tree.entries[-1], random)
    elif kind == 8:
        field = random.choice(["version", "num_entries", "num_tensors", "alignment"])
        setattr(tree, field, random.choice(SIZES[1:12] if field == "alignment" else SIZES))
    elif kind == 9:
        tree.data = _change_bytes(tree.data, random)
    elif tree.tensors:
        _change_tensor(tree, random)


def _change_entry(entry: GgufEntry, random: random.Random) -> None:
    kind = random.randrange(7)
    if kind <= 1:
        entry.kind = random.choice([*SCALARS, TEXT, ARRAY, ARRAY, 13, 2**32 - 1])
        entry.item_kind = random.choice([*SCALARS, TEXT, ARRAY, 13])
        entry.value = random.choice([*NUMBERS, *RAW_TEXTS])
    elif kind == 2:
        entry.name = random.choice([*RAW_TEXTS, entry.name[:-1], entry.name + b"x"])
    elif entry.kind == ARRAY and isinstance(entry.value, list):
        if kind == 3:
            entry.count = random.choice(SIZES)
        elif kind == 4:
            entry.item_kind = random.choice([*SCALARS, TEXT, ARRAY])
        elif entry.value:
            entry.value = list(entry.value)
            entry.value[random.randrange(len(entry.value))] = random.choice([*NUMBERS, *RAW_TEXTS])
    else:
        entry.value = random.choice(RAW_TEXTS if entry.kind == TEXT else NUMBERS)


def _change_tensor(tree: GgufTree, random: random.Random) -> None:
    tensor = random.choice(tree.tensors)
    other = random.choice(tree.tensors)
    kind = random.randrange(7)
    if kind == 0:
        tensor.kind = random.choice([*range(45), 2**32 - 1])
    elif kind == 1:
        tensor.offset = random.choice([*SIZES, other.offset, tensor.offset + 1, tensor.offset + 32, tensor.offset - 32])
    elif kind == 2 and tensor.dimensions:
        tensor.dimensions[random.randrange(len(tensor.dimensions))] = random.choice(SIZES)
    elif kind == 3:
        tensor.dimensions = random.choice(
            [[], [1], tensor.dimensions[::-1], [*tensor.dimensions, 1], [1] * 5, [1] * 99]
        )
    elif kind == 4:
        tensor.name = random.choice([*RAW_TEXTS, other.name, tensor.name + b"x"])
    elif kind == 5:
        tree.tensors.remove(tensor)
    else:
        tensor.offset, other.offset = other.offset, tensor.offset


def _change_json(value: Any, random: random.Random) -> Any:
    """The value with one place in it changed."""
    if not isinstance(value, (dict, list)) or not value or random.random() < 0.1:
        return _other_value(value, random)
    value = copy.copy(value)
    place = random.choice(sorted(value, key=str)) if isinstance(value, dict) else random.randrange(len(value))
    kind = random.random()
    if kind < 0.1:
        del value[place]
    elif kind < 0.2 and isinstance(value, dict):
        value[random.choice([*TEXTS, "is_causal", "sliding_window", "rope_scaling", f"{place}x"])] = random.choice(
            VALUES
        )
    elif kind < 0.25 and isinstance(value, list):
        value.append(random.choice(VALUES))
    else:
        value[place] = _change_json(value[place], random)
    return value


def _other_value(value: Any, random: random.Random) -> Any:
    if random.random() < 0.05:
        deep: Any = value
        for _ in range(random.choice([10, 65, 500])):
            deep = [deep] if random.random() < 0.5 else {"a": deep}
        return deep
    if isinstance(value, int) and random.random() < 0.4:
        return value + random.choice([-1, 1, value, -value])
    return random.choice(VALUES)
