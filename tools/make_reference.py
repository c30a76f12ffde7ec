"""Write small random models of every supported architecture with transformers' float32 logits.

    python tools/make_reference.py --out tests/data

Each model becomes a folder: a Hugging Face directory or a GGUF file, and one reference file a sequence
(`reference.npz` or `reference-<name>.npz`) with the arrays of `reference_models.oracle.Reference`. The logits are those
of the STORED weights upcast to float32, so a test sees the engine's error and not the rounding of the file.

Needs torch, transformers, gguf and tokenizers; the output depends only on these sources and on the versions of those
packages. Before anything is kept, every feature of every model is shown to move the logits: see --table.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from reference_models import gguf_files, hf_files
from reference_models.cases import CASES, Case
from reference_models.oracle import Reference, build_model, make_reference, prefill_logits
from reference_models.sensitivity import variants

MAX_TOTAL_BYTES = 3 * 2**20
TEST_TOLERANCE = 1e-4  # relative error that the tests allow in float32 (tests/python/tolerances.py)
MIN_SENSITIVITY = 100 * TEST_TOLERANCE


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of `expected`."""
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def write_case(case: Case, directory: Path) -> dict[str, Reference]:
    """Write the checkpoint and reference files of `case`; return the references by the suffix of their files."""
    if case.gguf_types:
        gguf_files.write_checkpoint(case, directory)
        model = gguf_files.read_checkpoint(case, directory)
    else:
        hf_files.write_checkpoint(case, directory)
        model = hf_files.read_checkpoint(directory)
    references = {}
    for suffix, length in case.sequences.items():
        reference = make_reference(model, f"{case.name} {suffix}", length)
        np.savez(directory / f"reference{'-' if suffix else ''}{suffix}.npz", **vars(reference))
        references[suffix] = reference
    return references


def check_sensitivity(case: Case, directory: Path, reference: Reference) -> list[tuple[str, float]]:
    """Relative change of the reference logits with each feature of `case` ignored.

    Raises ValueError where a change is too small for a test with TEST_TOLERANCE to notice.
    """
    model = gguf_files.read_checkpoint(case, directory) if case.gguf_types else hf_files.read_checkpoint(directory)
    # Parameters, not state_dict: a tied lm_head is listed once, as in the file.
    state = {key: parameter.detach() for key, parameter in model.named_parameters()}
    rows = []
    for name, config, changed in variants(case, state):
        logits = prefill_logits(build_model(config, changed), reference.token_ids)[reference.positions]
        difference = relative_difference(logits, reference.logits)
        if difference < MIN_SENSITIVITY:
            raise ValueError(f"{case.name}: ignoring {name!r} moves the logits by only {difference:.1e}")
        rows.append((name, difference))
    return rows


def _folder_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def main() -> int:
    """Write all cases into a fresh folder, check them, then replace --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder whose models are replaced, e.g. tests/data")
    parser.add_argument("--table", action="store_true", help="print how far each ignored feature moves the logits")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)  # the order of additions, and so the last bits, must not depend on the machine

    with tempfile.TemporaryDirectory() as scratch:
        for case in CASES:
            directory = Path(scratch) / case.name
            references = write_case(case, directory)
            first = next(iter(references.values()))
            rows = check_sensitivity(case, directory, first)
            smallest = min(rows, key=lambda row: row[1])
            print(
                f"{case.name:28s} {_folder_bytes(directory) / 1024:6.1f} KB  logits std {first.logits.std():.2f}  "
                f"least sensitive to {smallest[0]}: {smallest[1]:.3f}"
            )
            if arguments.table:
                print("".join(f"    {name:32s} {difference:8.3f}\n" for name, difference in rows), end="")
        total = _folder_bytes(Path(scratch))
        print(f"{len(CASES)} models, {total / 2**20:.2f} MB")
        if total > MAX_TOTAL_BYTES:
            raise ValueError(f"{total} bytes are more than the {MAX_TOTAL_BYTES} that may be committed")
        for case in CASES:
            shutil.rmtree(arguments.out / case.name, ignore_errors=True)
            # copyfile: the usual permissions instead of those of a temporary file.
            shutil.copytree(Path(scratch) / case.name, arguments.out / case.name, copy_function=shutil.copyfile)
    return 0


if __name__ == "__main__":
    sys.exit(main())
