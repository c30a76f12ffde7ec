"""An interpreter that ends while a model is open."""

from __future__ import annotations

import pytest

from python_process import run_program


def test_a_model_left_open_does_no_harm_at_exit(device: str) -> None:
    result = run_program("open_at_exit.py", device)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.slow
def test_an_exit_under_a_step_of_a_daemon_thread_is_no_crash(device: str) -> None:
    result = run_program("daemon_at_exit.py", device)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
