"""tools/check_levels.py: the repository keeps to its levels, and whatever does not is found."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import check_levels

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[3]
CUDA_ROWS, PLOTTING = "native/backends/cuda/rows/planted.h", "python/tinyllm/memory/plotting.py"
# Case -> what is put at the end of which file, and the violations that its last line is.
PLANTED = {
    "include of a higher level": [
        ("native/ops/planted.h", '#include "engine/engine.h"', ["engine may not be included from ops"])
    ],
    "include by a relative path, with code around it": [
        ("native/core/planted.h", '#if 0\n#  include "../api/api_guard.h"  // x', ["api may not be included from core"])
    ],
    "include of a sibling": [
        ("native/memory/planted.h", '#include "config/limits.h"', ["config may not be included from memory"])
    ],
    "include of another backend": [
        (
            "native/backends/cpu/rows/planted.h",
            '#include "backends/cuda/cuda_backend.h"',
            ["cuda may not be included from cpu (levels of native/backends: cpu, cuda < registry)"],
        )
    ],
    "include of a higher level inside a backend": [
        (CUDA_ROWS, '#include "backends/cuda/attention/attention.h"', ["attention may not be included from rows"])
    ],
    "include of a backend past the registry": [
        (
            "native/bench/planted.h",
            '#include "backends/cpu/cpu_backend.h"',
            ["from outside of native/backends only registry.h may be included"],
        )
    ],
    "include of a file that does not exist": [
        ("native/bench/planted.cpp", '#include "bench/gone.h"', ['includes "bench/gone.h": native has no such file'])
    ],
    "include of a macro": [("native/bench/macro.cpp", "#include HEADER", ["includes HEADER: only a name in quotes"])],
    "include cycle": [
        ("native/api/planted_a.h", '#include "api/planted_b.h"', []),
        (
            "native/api/planted_b.h",
            '#pragma once\n#include "api/planted_a.h"',
            ["cycle: native/api/planted_a.h -> native/api/planted_b.h -> native/api/planted_a.h"],
        ),
    ],
    "CUDA header outside of its folder": [
        ("native/model/planted.h", "#include <cuda_fp16.h>", ["CUDA headers belong in native/backends/cuda"])
    ],
    "CUDA header in its folder": [(CUDA_ROWS, "#include <cub/cub.cuh>\n#include <vector>", [])],
    "folder without a level": [("native/planted/planted.h", "#pragma once", ["is in no level (levels of native: "])],
    "import of a higher level": [(PLOTTING, "from ..model import Model", ["model may not be imported from memory"])],
    "import of a higher level in a function": [
        (PLOTTING, "def planted():\n    import tinyllm.demo", ["demo may not be imported from memory"])
    ],
    "import of a higher level for types": [
        (
            "python/tinyllm/errors.py",
            "if TYPE_CHECKING:\n    from .config import ModelConfig",
            ["config may not be imported from errors"],
        )
    ],
    "import of a module that does not exist": [
        ("python/tinyllm/demo.py", "from .gone import x", ["imports tinyllm.gone: there is no such module"])
    ],
    "import cycle": [
        ("python/tinyllm/generation/results.py", "from . import stop", ["stop may not be imported from results"]),
        (
            "python/tinyllm/generation/stop.py",
            "from tinyllm.generation.results import GenerationResult",
            [
                "results may not be imported from stop",
                "cycle: python/tinyllm/generation/results.py -> python/tinyllm/generation/stop.py"
                " -> python/tinyllm/generation/results.py",
            ],
        ),
    ],
    "module without a level": [("python/tinyllm/planted.py", "import sys", ["is in no level (levels of python/tiny"])],
}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    code = check_levels.main(list(arguments))
    return code, capsys.readouterr().out.splitlines()


def test_the_repository_keeps_to_its_levels(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys)
    assert code == 0, "\n".join(lines)
    assert len(lines) == 1


def test_violations_are_found_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("native", "python/tinyllm"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    expected = ["python/tinyllm:1: |has no __main__ (levels of python/tinyllm: "]  # a level without a file
    (tmp_path / "python/tinyllm/__main__.py").unlink()
    for file, code, violations in (plant for plants in PLANTED.values() for plant in plants):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        before = path.read_text() if path.exists() else ""
        path.write_text(f"{before}{code}\n")
        line = len(path.read_text().splitlines())
        expected += [f"{file}:{line}: |{violation}" for violation in violations]

    exit_code, lines = run(capsys, "--root", str(tmp_path))
    assert exit_code == 1
    missing = [e for e in expected if not any(matches(line, e) for line in lines)]
    unexpected = [line for line in lines if not any(matches(line, e) for e in expected)]
    assert (missing, unexpected) == ([], [])


def matches(line: str, expected: str) -> bool:
    where, _, text = expected.partition("|")
    return line.startswith(where) and text in line
