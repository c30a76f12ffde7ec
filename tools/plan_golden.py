"""A digest of every plan of tools/fingerprint.py, kept in tests/data/plans.json: bytes must not change by accident.

    python tools/plan_golden.py [FILE]     # write it again, after a change of the plans that is meant

tests/python/test_plan_unchanged.py compares it with today's plans. A plan is there as the bytes of each component, a
digest of the bytes of its single allocations, and a digest of everything that it names; two plans are there in full.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fingerprint import DATA, full_entries, plans, sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = DATA / "plans.json"
IN_FULL = ("cpu qwen3_bias w8a16-128 keep 4x128", "cuda gguf_llama31_mixed none recompute 4x128")
# The last two columns; the others are components, and "overhead" for what is taken beside the entries.
DIGESTS = ("bytes of single allocations", "names, types, shapes or order")
SHOWN = 12  # lines of a report on each matter


def digest(value: Any) -> str:
    """32 bits of the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]


def golden() -> dict[str, Any]:
    """Today's plans, as FILE has them."""
    full: dict[str, list[str]] = {}
    rows: dict[str, dict[str, int | str]] = {}
    for device, model, options, planned in plans():
        totals: dict[str, int] = {}
        for kind, found in sizes(planned).items():
            component = kind.partition(" ")[0]
            totals[component] = totals.get(component, 0) + sum(found)
        lines = full_entries(planned)
        digests = zip(DIGESTS, (digest(sizes(planned)), digest(lines)), strict=True)
        rows[f"{device} {model} {options}"] = {**totals, **dict(digests)}
        if f"{device} {model} {options}" in IN_FULL:
            full[f"{device} {model} {options}"] = lines
    columns = [*sorted({name for row in rows.values() for name in row} - set(DIGESTS)), *DIGESTS]
    # By position: names would be most of the file.
    table = {key: [row.get(column, 0) for column in columns] for key, row in rows.items()}
    return {"columns": columns, "full": full, "plans": table}


def text(contents: dict[str, Any]) -> str:
    """As JSON with a line a plan, so that a diff of the file shows which ones changed."""
    parts = [f'{{"columns": {json.dumps(contents["columns"])}']
    for name in ("full", "plans"):
        indent, separators = (1, None) if name == "full" else (None, (",", ":"))
        rows = (
            f"{json.dumps(key)}:{json.dumps(value, indent=indent, separators=separators)}"
            for key, value in contents[name].items()
        )
        parts.append(f'"{name}": {{\n' + ",\n".join(rows) + "}")
    return ",\n".join(parts) + "}\n"


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two digests, in words; empty if nothing does."""
    found = list(_changed_plans(before, after))
    lines = found[:SHOWN] + ([f"... and {len(found) - SHOWN} more plans"] if len(found) > SHOWN else [])
    for key in sorted(before["full"].keys() | after["full"].keys()):
        old, new = (contents["full"].get(key, []) for contents in (before, after))
        diff = [line for line in difflib.unified_diff(old, new, n=0, lineterm="") if line[:3] not in ("---", "+++")]
        if diff:
            more = [f"  ... and {len(diff) - SHOWN} more lines"] if len(diff) > SHOWN else []
            lines += [f"entries of {key}:", *(f"  {line}" for line in diff[:SHOWN]), *more]
    return lines


def _changed_plans(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key in sorted(before["plans"].keys() | after["plans"].keys()):
        if key not in before["plans"] or key not in after["plans"]:
            yield f"{key}: {'a new plan' if key in after['plans'] else 'gone'}"
            continue
        old, new = (dict(zip(contents["columns"], contents["plans"][key], strict=True)) for contents in (before, after))
        parts = []
        for column in {**old, **new}:
            was, now = old.get(column, 0), new.get(column, 0)
            if was != now:
                parts.append(f"{column} differ" if column in DIGESTS else f"{column} {was} -> {now} ({now - was:+})")
        if parts:
            yield f"{key}: {', '.join(parts)}"


if __name__ == "__main__":
    os.environ["TINYLLM_NUM_THREADS"] = "2"  # on any machine: the CPU's scratch is for each thread
    (Path(sys.argv[1]) if len(sys.argv) > 1 else FILE).write_text(text(golden()))
