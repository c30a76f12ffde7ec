"""Writes docs/gpu/record.json and record.md from the logs of tools/gpu_check.sh."""

from __future__ import annotations

import datetime
import json
import platform
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from tree_hash import tree_hash

ROOT = Path(__file__).resolve().parents[1]
PYTHON_TESTS = ("python-tests", "python-tests-ops", "python-tests-sm80")
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")

# (bench, kind, batch or tokens) -> (label, to reach, best peer); the peers are in README.md. Peers: calm for 7B and 8B,
# llama.cpp for the rest.
TARGETS = [
    ("llama2-7b", "decode", 1, "7B decode, batch 1", 450, 372),
    ("llama3-8b", "decode", 1, "8B decode, batch 1", 400, 324),
    ("llama3.2-1b", "decode", 1, "1B decode, batch 1", 1500, 825),
    ("smollm2-135m", "decode", 1, "135M decode, batch 1", 1800, 938),
    ("llama3-8b-batches", "decode", 16, "8B decode, batch 16, context 512", 4500, 1850),
    ("llama3-8b-batches", "decode", 64, "8B decode, batch 64, context 512", 12000, 4257),
    ("llama2-7b", "prefill", 2048, "7B prefill, 2048 tokens", 30000, 11070),
]


def run(*command: str) -> str:
    """First lines of what a command prints, or why there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"


def tests_of(path: Path) -> dict[str, int]:
    """Counts of a pytest run; all 0 where it ended before it wrote its report."""
    if not path.exists():
        return dict.fromkeys(("tests", "failures", "errors", "skipped", "passed"), 0)
    suite = next(ET.parse(path).iter("testsuite"))
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    counts["passed"] = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    return counts


def divergences_of(path: Path) -> dict[str, float]:
    """The largest mean KL divergence of GPU from CPU, by the property's name without "mean_kl"."""
    largest: dict[str, float] = {}
    for item in ET.parse(path).iter("property") if path.exists() else ():
        kind, _, name = item.get("name", "").partition(" ")
        if kind == "mean_kl":
            largest[name] = max(largest.get(name, 0.0), float(item.get("value", "nan")))
    return largest


def sanitizer_verdict(log: str) -> str:
    """The summary lines of compute-sanitizer."""
    lines = re.findall(r"(?:ERROR|LEAK|RACECHECK) SUMMARY: .*", log)
    return "; ".join(dict.fromkeys(lines)) or "no summary"


def collect(logs: Path, seconds: int) -> dict[str, Any]:
    """Everything that the record says."""
    benches = {path.stem[len("bench-") :]: json.loads(path.read_text()) for path in sorted(logs.glob("bench-*.json"))}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "native_tree": tree_hash(ROOT / "native").hex(),
        "machine": {
            "gpu": run("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
            "driver": run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "nvcc": run("nvcc", "--version").splitlines()[-1],
            "cpu": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        },
        "seconds": seconds,
        "stages": (logs / "stages.txt").read_text().splitlines(),
        "tests": {name: tests_of(logs / f"{name}.xml") for name in PYTHON_TESTS},
        "native_tests": len(re.findall(r"^== ", (logs / "native-tests.log").read_text(), re.MULTILINE)),
        "mean_kl": divergences_of(logs / "python-tests.xml"),
        "smollm2": (logs / "smollm2.txt").read_text().strip(),
        "sanitizers": {tool: sanitizer_verdict((logs / f"{tool}.log").read_text()) for tool in SANITIZERS},
        "benches": benches,
    }


def find(record: dict[str, Any], bench: str, kind: str, key: int | None) -> dict[str, Any] | None:
    """One result of a bench: by batch for decode, by tokens for prefill; None for results that have neither."""
    field = "batch" if kind == "decode" else "tokens"
    for result in record["benches"].get(bench, {}).get("results", []):
        if result["kind"] == kind and result["values"].get(field) == key:
            values: dict[str, Any] = result["values"]
            return values
    return None


def speed_rows(record: dict[str, Any]) -> list[str]:
    """The table of speeds beside targets and peers. The targets are those of an H200."""
    has_targets = "H200" in record["machine"]["gpu"]
    rows = ["| | tok/s | share of the run's ceiling | to reach | best peer |", "|---|---|---|---|---|"]
    for bench, kind, key, label, target, peer in TARGETS:
        values = find(record, bench, kind, key)
        if values is None:
            continue
        share = values.get("share_of_read_bandwidth") if kind == "decode" else values.get("share_of_matrix_rate")
        ceiling = "read bandwidth" if kind == "decode" else "matrix rate"
        missed = " (missed)" if has_targets and values["tok_per_s"] < target else ""
        rows.append(
            f"| {label} | {values['tok_per_s']:,.0f} | {share:.0%} of {ceiling} | {target:,}{missed} | {peer:,} |"
        )
    return rows


def comparison_rows(record: dict[str, Any]) -> list[str]:
    """int8 against our own 16-bit path, and long against short context."""
    rows = []
    for kind, key, label in (("decode", 1, "batch-1 decode"), ("prefill", 2048, "2048-token prefill")):
        int8, half = find(record, "llama2-7b", kind, key), find(record, "llama2-7b-none", kind, key)
        if int8 and half:
            rows.append(
                f"- 7B {label}, int8 against 16-bit weights: {int8['tok_per_s']:,.0f} against {half['tok_per_s']:,.0f} "
                f"tok/s, {int8['tok_per_s'] / half['tok_per_s']:.2f} times"
            )
    long, short = find(record, "llama2-7b-16k", "decode", 1), find(record, "llama2-7b", "decode", 1)
    if long and short:
        ratio = long["share_of_read_bandwidth"] / short["share_of_read_bandwidth"]
        rows.append(
            f"- 7B decode at 16k tokens of context: {long['tok_per_s']:,.0f} tok/s, {ratio:.0%} of what its bytes "
            "allow at the short-context efficiency"
        )
    return rows


def memory_rows(record: dict[str, Any]) -> list[str]:
    """What was planned, what was allocated, and what the driver took beside it."""
    rows = ["| | planned, bytes | actual, bytes | MB |", "|---|---|---|---|"]
    for result in record["benches"].get("memory", {}).get("results", []):
        values = result["values"]
        if result["kind"] == "memory":
            planned, actual = values["planned_bytes"], values.get("actual_bytes", 0)
            rows.append(f"| {values['component']} | {planned:,.0f} | {actual:,.0f} | {actual / 2**20:,.2f} |")
        elif result["kind"] == "driver":
            rows.append(f"| {values['name']} | | {values['bytes']:,.0f} | {values['bytes'] / 2**20:,.2f} |")
    return rows


def loading_rows(record: dict[str, Any]) -> list[str]:
    """How fast weights get in."""
    values = find(record, "load", "load", None)
    if values is None:
        return []
    return [
        f"- 7B load from host memory: {values['bytes'] * 1e-9:.1f} GB of float16 tensors in {values['seconds']:.2f} s, "
        f"{values['gbps']:.1f} GB/s"
    ]


def page(record: dict[str, Any]) -> str:
    """record.md."""
    machine = record["machine"]
    tests = ", ".join(
        f"{name}: {t['passed']} passed, {t['failures'] + t['errors']} failed, {t['skipped']} skipped"
        for name, t in record["tests"].items()
    )
    ceilings = next(iter(record["benches"].values()))["header"] if record["benches"] else {}
    lines = [
        "# GPU record",
        "",
        "Written by `tools/gpu_check.sh`; not edited by hand.",
        "",
        f"- date: {record['date']}; `native/` tree: `{record['native_tree']}`",
        f"- machine: {machine['gpu']}, driver {machine['driver']}, {machine['nvcc']}",
        f"- tests: {tests}, native programs: {record['native_tests']}; {record['smollm2']}",
        "- largest mean KL divergence of GPU logits from CPU logits: "
        + ", ".join(f"{name} {value:.1e}" for name, value in record["mean_kl"].items()),
        *(f"- compute-sanitizer {tool}: {verdict}" for tool, verdict in record["sanitizers"].items()),
        f"- whole check: {record['seconds']} s",
        "",
        "## Speed",
        "",
        f"Ceilings of the first run: read {ceilings.get('read_bandwidth_gbps', 0):,.0f} GB/s, "
        f"matrix {ceilings.get('matrix_rate_tflops', 0):,.0f} TFLOP/s. "
        "Medians; made-up weights; W8A16, group 128, float16.",
        "",
        *speed_rows(record),
        "",
        *comparison_rows(record),
        *loading_rows(record),
        "",
        "## Memory",
        "",
        "7B, batch 8, 4096 tokens, once in use (`tinyllm-bench --memory`); below `workspace` what the driver took "
        "beside the plan, by its own count of free bytes, and all that it lost since before the CUDA context.",
        "",
        *memory_rows(record),
        "",
        "## Stages",
        "",
        "```",
        *record["stages"],
        "```",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """gpu_record.py LOGS OUT SECONDS."""
    logs, out = Path(sys.argv[1]), Path(sys.argv[2])
    record = collect(logs, int(sys.argv[3]))
    (out / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "record.md").write_text(page(record))
    print((out / "record.md").read_text())


if __name__ == "__main__":
    main()
