"""What the libraries export, and that the installed one works alone.

libtinyllm.so has the functions of tinyllm.h and nothing else; libtinyllm_testing.so has the hooks of testing.h besides.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tinyllm
from reference import DATA
from tinyllm._native.library import library_path

NATIVE = Path(__file__).resolve().parents[3] / "native"
INSTALLED = Path(tinyllm.__file__).parent / "lib" / "libtinyllm.so"
needs_installed_package = pytest.mark.skipif(
    not INSTALLED.exists(), reason="the package is run from its sources, it is not installed"
)


def declared(header: str) -> set[str]:
    """The functions that a header under native/ marks with TL_API."""
    return set(re.findall(r"^TL_API [^;(]*?(tl_\w+)\(", (NATIVE / header).read_text(), re.MULTILINE))


def exported(library: Path) -> set[str]:
    command = ["nm", "--dynamic", "--defined-only", str(library)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {line.split()[-1] for line in output.splitlines()}


PUBLIC, HOOKS = declared("include/tinyllm.h"), declared("testing/testing.h")


def test_the_headers_share_no_function() -> None:
    assert len(PUBLIC) > 20
    assert len(HOOKS) > 10
    assert all(name.startswith(("tl_test_", "tl_debug_")) for name in HOOKS)
    assert not any(name.startswith(("tl_test_", "tl_debug_")) for name in PUBLIC)


def test_the_library_exports_its_header_and_nothing_else() -> None:
    assert exported(library_path().with_name("libtinyllm.so")) == PUBLIC


def test_the_testing_library_exports_the_hooks_too() -> None:
    assert exported(library_path()) == PUBLIC | HOOKS


@needs_installed_package
def test_the_installed_library_exports_its_header_and_nothing_else() -> None:
    assert [file.name for file in INSTALLED.parents[1].rglob("*.so")] == [INSTALLED.name]
    assert exported(INSTALLED) == PUBLIC


@needs_installed_package
def test_the_installed_package_loads_its_own_library() -> None:
    program = (
        "import sys, tinyllm\n"
        "from tinyllm._native.library import library_path\n"
        "with tinyllm.load(sys.argv[1], device='cpu') as model:\n"
        "    print(len(model.generate([1, 2, 3], max_new_tokens=4, ignore_eos=True).token_ids))\n"
        "print(library_path())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TINYLLM_LIBRARY"}
    command = [sys.executable, "-c", program, str(DATA / "llama2")]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert result.stdout.splitlines() == ["4", str(INSTALLED)]
