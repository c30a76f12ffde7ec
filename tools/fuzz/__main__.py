"""Run: everything in the corpus, then cases made from the models of tests/data with numbered seeds.

A child process does the work, so that a crash is a finding like any other. Prints each finding with the seed that
makes it again; the exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

from .corpus import findings
from .mutate import Case, mutate

DATA = Path(__file__).parents[2] / "tests" / "data"
_KEPT = (".json", ".safetensors", ".gguf", ".jinja")
_MOST_FINDINGS = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long (default: %(default)g)")
    parser.add_argument("--cases", type=int, default=10**12, help="at most so many cases")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first case (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="make only this case, and keep its files in fuzz-SEED/")
    parser.add_argument("--run", action="store_true", help="let models that open generate")
    parser.add_argument("--tokenizer", action="store_true", help="make the tokenizers too")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.seed is not None:
        args.first_seed, args.cases = args.seed, 1
        _keep(args.seed)
    return _work(args) if args.child or args.seed is not None else _supervise(args)


def bases() -> list[Case]:
    """The models of tests/data, file by file."""
    folders = sorted(path for path in DATA.iterdir() if path.is_dir())
    return [{path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in _KEPT} for folder in folders]


def make_case(seed: int, models: list[Case]) -> Case:
    """The case with this seed."""
    generator = random.Random(seed)
    return mutate(generator.choice(models), generator)


def _keep(seed: int) -> None:
    folder = Path(f"fuzz-{seed}")
    folder.mkdir(exist_ok=True)
    for name, content in make_case(seed, bases()).items():
        (folder / name).write_bytes(content)


def _work(args: argparse.Namespace) -> int:
    """The child: says which case it begins with "+", what was found with "!", and at the end how many there were."""
    from .check import limit_memory, problem

    end = time.monotonic() + args.seconds
    models = bases()
    limit_memory()
    count, found = 0, 0
    if args.first_seed == 0 and args.seed is None:
        gguf = next(
            model for model in models if "model.gguf" in model and b"tokenizer.ggml.tokens" in model["model.gguf"]
        )
        huggingface = next(model for model in models if "model.safetensors" in model)
        for name, case in findings(gguf, huggingface):
            print(f"+ corpus, {name}", flush=True)
            if (wrong := problem(case, args.run, args.tokenizer)) is not None:
                found += 1
                print(f"! corpus, {name}: {wrong}", flush=True)
    for seed in range(args.first_seed, args.first_seed + args.cases):
        if time.monotonic() > end or found >= _MOST_FINDINGS:
            break
        print(f"+ {seed}", flush=True)
        count += 1
        if (wrong := problem(make_case(seed, models), args.run, args.tokenizer)) is not None:
            found += 1
            print(f"! seed {seed}: {wrong}", flush=True)
    print(f"= {count} cases, {found} findings", flush=True)
    return 1 if found else 0


def _supervise(args: argparse.Namespace) -> int:
    """Run children until the time is over; one that dies is a finding, and the next begins after its case."""
    end = time.monotonic() + args.seconds
    seed, found, done = args.first_seed, 0, 0
    while found < _MOST_FINDINGS and done < args.cases and (left := end - time.monotonic()) > 0:
        command = [sys.executable, "-m", "fuzz", "--child", "--first-seed", str(seed), "--seconds", str(left)]
        command += ["--cases", str(args.cases - done)]
        command += ["--run"] if args.run else []
        command += ["--tokenizer"] if args.tokenizer else []
        last, finished = "nothing", False
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as child:
            for line in child.stdout or ():
                if line.startswith("+ "):
                    last = line[2:].strip()
                    if last.isdecimal():
                        done += 1
                        seed = int(last) + 1
                    continue
                finished = finished or line.startswith("= ")
                if line.startswith("! "):
                    found += 1
                if not line.startswith("= "):
                    print(line, end="", flush=True)
        if finished:
            break
        found += 1
        print(f"! {'seed ' if last.isdecimal() else ''}{last}: the process ended with {child.returncode}", flush=True)
        if not last.isdecimal():
            seed = max(seed, 1)  # past the corpus
    print(f"{done} cases, {found} findings; the next seed is {seed}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
