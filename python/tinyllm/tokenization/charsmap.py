"""A check of SentencePiece's precompiled character map, before the tokenizers package uses it.

The package trusts the map: an index out of range ends in a panic at the first text that leads there, and a false size
in an allocation that ends the process. The form of the map (`sentencepiece/src/normalizer.cc`): the trie's size in
bytes as a 32-bit little-endian number; the trie, a double array of 32-bit units as darts-clone writes it; then the
replacements, UTF-8 texts that end with a zero byte each, which the trie's values point to.
"""

from __future__ import annotations

import numpy as np

_LABEL_MASK = 0x800000FF  # a unit with the highest bit set is a value, and the label of no byte
_VALUE_MASK = 0x7FFFFFFF


def charsmap_error(charsmap: bytes) -> str | None:
    """What is wrong with the map; None where every text can be normalised with it."""
    if len(charsmap) < 4:
        return f"expected 4 bytes or more, found {len(charsmap)}"
    trie_bytes = int.from_bytes(charsmap[:4], "little")
    if trie_bytes == 0 or trie_bytes % 4 or trie_bytes > len(charsmap) - 4:
        return f"expected a trie of at most {len(charsmap) - 4} bytes in whole units of 4, found {trie_bytes} bytes"
    units = np.frombuffer(charsmap, "<u4", trie_bytes // 4, 4).astype(np.int64)
    replacements = charsmap[4 + trie_bytes :]
    try:
        replacements.decode()
    except UnicodeDecodeError as error:
        return f"the replacements are not UTF-8: {error}"
    return _walk(units, replacements)


def _walk(units: np.ndarray, replacements: bytes) -> str | None:
    """Visits every unit that some text leads to, a level of the trie at a time."""
    starts = [index for index, byte in enumerate(replacements) if byte & 0xC0 != 0x80]  # of characters
    valid_values = np.array([*starts, len(replacements)])
    visited = np.zeros(len(units), bool)
    reached = np.array([0])
    while reached.size:
        visited[reached] = True
        reached_units = units[reached]
        children = reached ^ ((reached_units >> 10) << ((reached_units & 0x200) >> 6))
        with_value = children[(reached_units & 0x100) != 0]
        if with_value.size and with_value.max() >= len(units):
            return f"unit {with_value.max()} is expected, found {len(units)} units"
        values = units[with_value] & _VALUE_MASK
        if not np.isin(values, valid_values).all():
            return f"expected values that begin a character of {len(replacements)} bytes, found {values.max()}"
        found = []
        for byte in range(1, 256):
            candidates = children ^ byte
            if candidates.max() >= len(units):
                return f"unit {candidates.max()} is expected, found {len(units)} units"
            found.append(candidates[(units[candidates] & _LABEL_MASK) == byte])
        reached = np.unique(np.concatenate(found))
        reached = reached[~visited[reached]]
    return None
