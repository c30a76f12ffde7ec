"""Checks the levels of the code.

An include or an import points to a lower level, never up, never sideways, never round in a circle.
`python tools/check_levels.py` prints one line for each violation and exits with 1 if there is any.

LEVELS is the statement of the levels, lowest first: `a < b, c` says that b and c may use a, and that nothing else of
these three may use another. A name is a file, with or without its suffix, or a folder, which may have levels of its
own; of several names that fit the longest counts. Files of one name may use each other freely. Every file must have a
name, and every name a file. DOORS says which files of the backends the rest may include, CEILINGS who is excepted.

Native: every #include that leads to a file under native/, whatever conditional it stands in. tests/native may include
anything. Only CUDA_FOLDER and its exception may include CUDA headers.

Python: every import of the package, also inside a function and under `if TYPE_CHECKING:`. Cycles are looked for among
the imports that can run, so without the latter. Importing a module runs the `__init__` of its packages, so that counts
as an import too, but for packages that the importing module lies in itself. What importlib imports is not seen.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LEVELS = {
    "native": (
        "include < core < memory, config < ops < quantization < model, backends < loading, planning < engine < api"
        " < testing < bench"
    ),
    "native/backends": "cpu, cuda < registry",
    # cpu_backend.h declares the class whose functions are defined in rows, attention, sampling and loading. The tables
    # of kernels of an instruction set are put together of the loops of all of them.
    "native/backends/cpu": (
        "simd < linear < cpu_backend.h < rows < attention, sampling, loading"
        " < cpu_backend.cpp, simd/kernels_avx2.cpp, simd/kernels_avx512.cpp"
    ),
    "native/backends/cuda": (
        "device, runtime < rows, loading < linear, sampling < attention < scratch_bytes < cuda_backend"
    ),
    "python/tinyllm": (
        "errors < _checks, _package_index < config < _native, tokenization, progress < checkpoints, generation < memory"
        " < model, demo < loading < api < __init__ < commands < __main__"
    ),
    "python/tinyllm/_native": "abi, handle < library < engine < devices, queue < __init__",
    "python/tinyllm/tokenization": (
        "backend_errors, charsmap, pretokenizers, messages, template_limits"
        " < detokenizer, chat_encoding, template_environment, gguf_metadata < chat_template < tokenizer"
        " < huggingface, gguf < __init__"
    ),
    "python/tinyllm/checkpoints": "settings, files < base < schema, generation, rope < huggingface, gguf < __init__",
    "python/tinyllm/checkpoints/huggingface": "config, safetensors, hub < checkpoint, config_only < __init__",
    "python/tinyllm/checkpoints/gguf": "config, header < file < checkpoint < __init__",
    "python/tinyllm/generation": "results, stop < text_request < __init__",
    "python/tinyllm/memory": "html < report < planning < plotting < __init__",
    "python/tinyllm/commands": (
        "console, words < options, output, bench_python < bench, chat, demo, devices, generate, info, plan < __init__"
        " < main"
    ),
}

# What may be included of a folder from outside of it. None of it includes CUDA headers: a build without CUDA plans too.
DOORS = {
    "native/backends": ("registry.h",),
    "native/backends/cpu": ("cpu_backend.h",),
    "native/backends/cuda": ("cuda_backend.h", "scratch_bytes.h", "runtime/staging_bytes.h"),
}

CUDA_FOLDER = "native/backends/cuda"
# Code of the bench that measures what a device can do at best: no part of a backend, but made of its parts. It may
# include all that the backend's files may.
CEILINGS = {"native/bench/ceilings/cpu": "native/backends/cpu", "native/bench/ceilings/cuda": CUDA_FOLDER}
CUDA_HEADER = re.compile(
    r"cuda|cub/|cublas|cudnn|cufft|cupti|curand|cusolver|cusparse|cutlass/|cute/|nccl|nvml|nvrtc|nvtx|nvToolsExt|thrust/"
    r"|cooperative_groups|mma\.h|crt/|vector_types|vector_functions|driver_types|device_launch_parameters|sm_\d"
)

NATIVE, PACKAGE = "native", "python/tinyllm"
NOT_SOURCE = re.compile(r"CMakeLists\.txt|.*\.(cmake|map|md)")
INCLUDE = re.compile(r"\s*#\s*(?:include|include_next|import)\b\s*(.*)")
HEADER = re.compile(r'"([^"]+)"|<([^>]+)>')


def _ranks(levels: str) -> dict[str, int]:
    return {name.strip(): rank for rank, level in enumerate(levels.split("<")) for name in level.split(",")}


RANKS = {folder: _ranks(levels) for folder, levels in LEVELS.items()}  # name -> level


def level_name(folder: str, file: str) -> str | None:
    """The name, in the folder's levels, of a file that lies under the folder."""
    path = file.removeprefix(folder + "/")
    stem = str(PurePosixPath(path).with_suffix(""))
    names = [name for name in RANKS[folder] if name in (path, stem) or path.startswith(name + "/")]
    return max(names, key=len, default=None)


def insider_of(file: str) -> str:
    """The backend's folder whose files this one, which lies outside, may include; "" for most."""
    return CEILINGS.get(file.rpartition(".")[0], "")


def module_name(file: str) -> str:
    """python/tinyllm/a/b.py -> tinyllm.a.b; a package's __init__.py -> the package."""
    return file.removeprefix("python/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(tree: ast.AST, runs: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The import statements, and whether they can run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, runs
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from imports(ast.Module(node.body, []), runs=False)
            yield from imports(ast.Module(node.orelse, []), runs)
        else:
            yield from imports(node, runs)


class Check:
    """The violations of the tree under `root`, and what was looked at."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.violations: list[tuple[str, int, str]] = []  # file, line, what is wrong
        self.num_includes = self.num_imports = 0
        native = [file for file in self._files(NATIVE) if not NOT_SOURCE.fullmatch(Path(file).name)]
        package = [file for file in self._files(PACKAGE) if file.endswith(".py")]
        self.files = set(native + package)
        self.modules = {module_name(file): file for file in package}

        self._check_names()
        includes = {file: list(self._check_includes(file)) for file in native}
        self._check_cycles(includes)
        self._check_cycles({file: list(self._check_imports(file)) for file in package})
        self.violations.sort()

    def _fail(self, file: str, line: int, text: str) -> None:
        self.violations.append((file, line, text))

    def _files(self, folder: str) -> list[str]:
        """Those under the folder that are not hidden, relative to the root."""
        paths = sorted(path.relative_to(self.root) for path in (self.root / folder).rglob("*") if path.is_file())
        return [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]

    def _check_names(self) -> None:
        for folder, names in RANKS.items():
            files = [file for file in self.files if file.startswith(folder + "/")]
            found = {file: level_name(folder, file) for file in files}
            for file, name in found.items():
                if name is None:
                    self._fail(file, 1, f"is in no level (levels of {folder}: {LEVELS[folder]})")
            for name in names.keys() - set(found.values()):
                self._fail(folder, 1, f"has no {name} (levels of {folder}: {LEVELS[folder]})")
        for folder, doors in DOORS.items():
            for door in doors:
                if f"{folder}/{door}" not in self.files:
                    self._fail(folder, 1, f"has no {door}, which DOORS of tools/check_levels.py names")

    def _check_arrow(self, file: str, line: int, target: str, what: str) -> None:
        """That `file` may use `target`; `what` says how it does: `includes "x"`."""
        for folder, names in RANKS.items():  # outer folders come before those in them
            if not (file.startswith(folder + "/") and target.startswith(folder + "/")):
                continue
            user, used = level_name(folder, file), level_name(folder, target)
            if user is None or used is None:
                return  # _check_names said so
            if user != used and names[used] >= names[user]:
                wrong = f"{used} may not be {'imported' if file in self.modules.values() else 'included'} from {user}"
                self._fail(file, line, f"{what}: {wrong} (levels of {folder}: {LEVELS[folder]})")
                return
        for folder, doors in DOORS.items():
            if f"{insider_of(file)}/".startswith(f"{folder}/"):
                continue
            inside = target.startswith(folder + "/") and not file.startswith(folder + "/")
            if inside and target.removeprefix(folder + "/") not in doors:
                self._fail(file, line, f"{what}: from outside of {folder} only {', '.join(doors)} may be included")
                return

    def _check_includes(self, file: str) -> Iterator[tuple[str, int]]:
        """Checks the includes of a file; those of other files of the project, and their lines."""
        text = (self.root / file).read_text(encoding="utf-8", errors="replace")
        for line, code in enumerate(text.splitlines(), 1):
            include = INCLUDE.match(code)
            if include is None:
                continue
            header = HEADER.match(include[1])
            if header is None:
                self._fail(file, line, f"includes {include[1]}: only a name in quotes or brackets can be checked")
                continue
            folders = [NATIVE, f"{NATIVE}/include"]
            if header[1]:
                folders.insert(0, str(PurePosixPath(file).parent))
            paths = [os.path.normpath(f"{folder}/{header[1] or header[2]}") for folder in folders]
            target = next((path for path in paths if path in self.files), None)
            if target is not None:
                self.num_includes += 1
                self._check_arrow(file, line, target, f"includes {header[0]}")
                yield target, line
            elif CUDA_HEADER.match(header[1] or header[2]):
                if not file.startswith(CUDA_FOLDER + "/") and insider_of(file) != CUDA_FOLDER:
                    self._fail(file, line, f"includes {header[0]}: CUDA headers belong in {CUDA_FOLDER}")
            elif header[1]:
                self._fail(file, line, f"includes {header[0]}: {NATIVE} has no such file")

    def _check_imports(self, file: str) -> Iterator[tuple[str, int]]:
        """Checks the imports of a module; the modules that they run, and their lines."""
        module = module_name(file)
        package = module if file.endswith("/__init__.py") else module.rpartition(".")[0]
        for statement, runs in imports(ast.parse((self.root / file).read_text(encoding="utf-8"), file)):
            for name in self._imported(statement, package):
                if name not in self.modules:
                    self._fail(file, statement.lineno, f"imports {name}: there is no such module")
                    continue
                self.num_imports += 1
                self._check_arrow(file, statement.lineno, self.modules[name], f"imports {name}")
                parts = name.split(".")
                run = {".".join(parts[: n + 1]) for n in range(len(parts))} if runs else set()
                for other in sorted(run & self.modules.keys()):
                    if other == name or not f"{module}.".startswith(f"{other}."):
                        yield self.modules[other], statement.lineno

    def _imported(self, statement: ast.Import | ast.ImportFrom, package: str) -> list[str]:
        """The modules of the project that a statement names."""
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        else:
            parts = package.split(".")
            base = parts[: len(parts) - statement.level + 1] if statement.level else []
            source = ".".join([*base, *([statement.module] if statement.module else [])])
            inner = [f"{source}.{alias.name}" for alias in statement.names]
            names = sorted({name if name in self.modules else source for name in inner})
        return [name for name in names if name.split(".")[0] == Path(PACKAGE).name]

    def _check_cycles(self, arrows: dict[str, list[tuple[str, int]]]) -> None:
        """One violation for each arrow that closes a cycle on a walk along all arrows."""
        path: list[str] = []
        done: set[str] = set()

        def walk(file: str) -> None:
            path.append(file)
            for target, line in arrows[file]:
                if target in path:
                    self._fail(file, line, f"cycle: {' -> '.join([*path[path.index(target) :], target])}")
                elif target not in done:
                    walk(target)
            done.add(path.pop())

        for file in arrows:
            if file not in done:
                walk(file)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Checks that includes and imports point down the levels of the code.")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="the project's folder")
    check = Check(parser.parse_args(arguments).root)
    for file, line, text in check.violations:
        print(f"{file}:{line}: {text}")
    if not check.violations:
        print(f"levels: {len(check.files)} files, {check.num_includes} includes, {check.num_imports} imports")
    return 1 if check.violations else 0


if __name__ == "__main__":
    sys.exit(main())
