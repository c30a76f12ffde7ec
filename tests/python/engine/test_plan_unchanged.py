"""Plans are those of tests/data/plans.json: a change of the sources that is not about memory changes none of them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import plan_golden

if TYPE_CHECKING:
    from pathlib import Path


def test_plans_are_those_of_the_golden_file(tmp_path: Path) -> None:
    kept = json.loads(plan_golden.FILE.read_text(encoding="utf-8"))
    # In a process of its own, because a process has one number of CPU threads, and the CPU's scratch depends on it.
    file = tmp_path / "plans.json"
    subprocess.run([sys.executable, plan_golden.__file__, str(file)], check=True)
    found = plan_golden.changes(kept, json.loads(file.read_text(encoding="utf-8")))
    assert not found, "\n".join(
        [
            f"plans differ from {plan_golden.FILE.name}:",
            *found,
            "If this is meant: `python tools/plan_golden.py` writes the file again; commit it and say why.",
            "To see every entry: `python tools/fingerprint.py write FILE --plans` before and after, then `compare`.",
        ]
    )


def test_a_changed_byte_and_a_changed_name_are_told_apart() -> None:
    kept = json.loads(plan_golden.FILE.read_text(encoding="utf-8"))
    changed = json.loads(json.dumps(kept))
    first, second, third, fourth = list(kept["plans"])[:4]
    columns = kept["columns"]
    changed["plans"][first][columns.index("weights")] += 64
    changed["plans"][second][columns.index(plan_golden.DIGESTS[1])] = "0"
    changed["plans"][third + " new"] = changed["plans"].pop(third)
    key = plan_golden.IN_FULL[0]
    changed["full"][key][0] += "0"
    weights = kept["plans"][first][columns.index("weights")]
    assert set(plan_golden.changes(kept, changed)) >= {
        f"{first}: weights {weights} -> {weights + 64} (+64)",
        f"{second}: names, types, shapes or order differ",
        f"{third}: gone",
        f"{third} new: a new plan",
        f"entries of {key}:",
        f"  -{kept['full'][key][0]}",
        f"  +{kept['full'][key][0]}0",
    }
    assert not any(fourth in line for line in plan_golden.changes(kept, changed))
    assert plan_golden.changes(kept, kept) == []
