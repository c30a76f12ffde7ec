"""After a kernel has destroyed the CUDA context: clear exceptions, no hang, the CPU goes on, and a clean exit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from needs import require_gpu
from python_process import run_program

if TYPE_CHECKING:
    import pytest


def test_a_sticky_error_is_clear_to_the_end_of_the_process(request: pytest.FixtureRequest) -> None:
    require_gpu(request.config)
    result = run_program("broken_gpu.py")
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["before"] == "done"
    assert found["error"].startswith("CudaError: CUDA error cudaErrorIllegalAddress")
    assert " at " in found["error"], "the place of the call that saw it"
    gone = "cannot be used any more"
    assert found["stream"].startswith("CudaError: ")
    # Its step runs at that moment, on a thread of its own: it may be the one that sees the error itself.
    assert gone in found["stream"] or "cudaErrorIllegalAddress" in found["stream"]
    for call in ("generate", "other model"):
        assert found[call].startswith("CudaError: ")
        assert "this engine stopped working" in found[call] or gone in found[call]
    assert gone in found["load"]
    assert "start a new process" in found["devices"]
    assert (found["close"], found["cpu"]) == ("done", "done")
