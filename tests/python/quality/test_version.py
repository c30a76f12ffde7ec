"""One statement of the version: pyproject.toml's."""

from __future__ import annotations

import re
from pathlib import Path

from tinyllm._native import engine as native

ROOT = Path(__file__).resolve().parents[3]


def stated_version() -> str:
    versions = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert len(versions) == 1
    return versions[0]


def test_the_library_has_it() -> None:
    assert native.library().tl_version().decode() == stated_version()


def test_the_changelog_begins_with_it() -> None:
    """A version with .dev0 is on the way to the release whose changes the page collects."""
    newest = re.findall(r"^## (\S+)(.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    release, _, unfinished = stated_version().partition(".dev")
    assert newest[0] == release
    assert ("not released" in newest[1]) == bool(unfinished)
