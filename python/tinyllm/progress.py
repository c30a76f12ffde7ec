"""The bar that shows how much of a model has been read."""

from __future__ import annotations

import sys
import warnings
from typing import Any


def is_watched() -> bool:
    """Whether somebody sees a bar: standard error is a terminal, or this is a notebook."""
    kernel = sys.modules.get("IPython")
    shell = kernel.get_ipython() if kernel is not None and hasattr(kernel, "get_ipython") else None
    in_notebook = shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
    return in_notebook or (sys.stderr is not None and sys.stderr.isatty())


def load_bar(total: int, show: bool) -> Any:
    """A tqdm bar over `total` bytes, a widget in notebooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without widgets gets a bar of characters, which is enough
        from tqdm.auto import tqdm

    return tqdm(
        total=total, disable=not show, desc="loading", unit="B", unit_scale=True, unit_divisor=1024, leave=False
    )
