"""The figures of the GPU that README.md states are those of docs/gpu/record.json."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import gpu_record

ROOT = Path(__file__).resolve().parents[3]
# README's row -> (bench, kind, batch or tokens) of each number in its second column.
ROWS = {
    "Llama 2 7B, decode, batch 1": [("llama2-7b", "decode", 1)],
    "Llama 3 8B, decode, batch 1": [("llama3-8b", "decode", 1)],
    "Llama 3.2 1B, decode, batch 1": [("llama3.2-1b", "decode", 1)],
    "SmolLM2 135M, decode, batch 1": [("smollm2-135m", "decode", 1)],
    "Llama 3 8B, decode, batch 16 / 64, 512 tokens of context": [
        ("llama3-8b-batches", "decode", 16),
        ("llama3-8b-batches", "decode", 64),
    ],
    "Llama 2 7B, decode, batch 1 at 16k tokens of context": [("llama2-7b-16k", "decode", 1)],
    "Llama 2 7B, prefill of 2048 tokens": [("llama2-7b", "prefill", 2048)],
}


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((ROOT / "docs" / "gpu" / "record.json").read_text())


@pytest.mark.parametrize("label", ROWS)
def test_readme_states_the_recorded_speeds(label: str, record: dict) -> None:
    row = re.search(rf"^\| {re.escape(label)} \| ([^|]*) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert row is not None
    recorded = [gpu_record.find(record, *key)["tok_per_s"] for key in ROWS[label]]
    assert row[1] == " / ".join(f"{speed:,.0f}" for speed in recorded)


def test_record_page_is_made_from_the_record(record: dict) -> None:
    assert (ROOT / "docs" / "gpu" / "record.md").read_text() == gpu_record.page(record)
