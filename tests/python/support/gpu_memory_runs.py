"""Runs in which the driver's count of free bytes is watched.

Each is a process of its own, because a CUDA context lasts as long as its process: `python gpu_memory_runs.py RUN`
prints one JSON object. test_cuda_memory.py starts them.
"""

from __future__ import annotations

import ctypes
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reference import CASES, DATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SUCCESS, _OUT_OF_MEMORY = 0, 2
SMALL = DATA / "smollm2"


class Gpu:
    """GPU 0 as the driver sees it, without tinyllm. `free` needs no context and makes none."""

    class _Memory(ctypes.Structure):
        _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]

    def __init__(self) -> None:
        self._cuda, self._nvml = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL("libnvidia-ml.so.1")
        self._check(self._cuda.cuInit(0), self._nvml.nvmlInit_v2())
        bus_id = ctypes.create_string_buffer(32)
        self._check(self._cuda.cuDeviceGetPCIBusId(bus_id, 32, 0))
        self._handle = ctypes.c_void_p()
        self._check(self._nvml.nvmlDeviceGetHandleByPciBusId_v2(bus_id, ctypes.byref(self._handle)))

    @property
    def free(self) -> int:
        memory = self._Memory()
        self._check(self._nvml.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(memory)))
        return memory.free

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Takes every byte that the driver still gives, in the process's context, which must exist."""
        context = ctypes.c_void_p()
        self._check(self._cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
        self._check(self._cuda.cuCtxPushCurrent_v2(context))
        blocks = []
        for size in (1 << 33, 1 << 28, 1 << 23, 1 << 21, 1 << 16, 1 << 12):
            while True:
                block = ctypes.c_uint64()
                code = self._cuda.cuMemAlloc_v2(ctypes.byref(block), ctypes.c_size_t(size))
                if code == _OUT_OF_MEMORY:
                    break
                self._check(code)
                blocks.append(block)
        try:
            yield
        finally:
            for block in blocks:
                self._check(self._cuda.cuMemFree_v2(block))
            self._check(self._cuda.cuCtxPopCurrent_v2(ctypes.byref(context)))
            self._check(self._cuda.cuDevicePrimaryCtxRelease(0))

    @staticmethod
    def _check(*codes: int) -> None:
        for code in codes:
            if code != _SUCCESS:
                raise RuntimeError(f"a driver call failed with {code}")


def use(model: Any) -> None:
    """Greedy and sampled requests, alone and together: kernels get loaded, steps captured."""
    for settings in ({}, {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.1, "logprobs": True}):
        model.generate([[1, 2, 3], [4] * 40], max_new_tokens=4, ignore_eos=True, **settings)
        model.generate([1, 2, 3], max_new_tokens=4, ignore_eos=True, **settings)
    model.logits(list(range(20)))


def architectures(gpu: Gpu) -> list[dict[str, Any]]:
    """Every reference model with several configurations, twice: planned, allocated, and lost by the driver."""
    before = gpu.free
    import tinyllm
    from tinyllm import KVCacheConfig

    configurations: list[dict[str, Any]] = [
        {"kv_cache": KVCacheConfig(2, 128)},
        {"kv_cache": KVCacheConfig(3, 192, num_pages=5), "group_size": 32, "recompute_activations": True},
        {"kv_cache": KVCacheConfig(2, 4096), "quantization": "none"},
    ]
    rows = []
    for turn in (1, 2):
        for case in {case.path: case for case in CASES}.values():
            for number, options in enumerate(configurations):
                planned = tinyllm.plan(case.path, "cuda", **options)
                with tinyllm.load(case.path, "cuda", **options) as model:
                    use(model)
                    report = model.memory()
                    lost = before - gpu.free
                rows.append(
                    {
                        "case": f"{case.name}-{number}",
                        "turn": turn,
                        "planned": planned.components,
                        "actual": report.actual,
                        "peak": report.peak,
                        "peak_planned": planned.total + sum(e.bytes for e in planned.overhead if e.only_loading),
                        "driver": report.driver,
                        "lost": report.lost,
                        "lost_by_nvml": lost,
                        "lost_after_close": before - gpu.free,
                    }
                )
    return rows


def injected(gpu: Gpu) -> dict[str, Any]:
    """Free bytes after loads of which every allocation in turn failed, and after one that worked."""
    import tinyllm
    from tinyllm._native import engine as native

    def load() -> None:
        with tinyllm.load(SMALL, "cuda") as model:
            use(model)

    load()
    start, frees = gpu.free, []
    library = native.library()
    while True:
        library.tl_debug_fail_allocation(len(frees) + 1)
        try:
            load()
            break
        except tinyllm.OutOfMemoryError:
            frees.append(gpu.free)
        finally:
            library.tl_debug_fail_allocation(0)
    return {"start": start, "frees": frees, "live": library.tl_debug_live_bytes()}


def full(gpu: Gpu) -> dict[str, Any]:
    """What models do while the GPU has not one byte left, and afterwards."""
    import tinyllm
    from tinyllm import KVCacheConfig
    from tinyllm._native import engine as native

    prompt, settings = [1, 2, 3, 4, 5], {"max_new_tokens": 12, "ignore_eos": True}
    sampled = {**settings, "temperature": 1.0, "top_k": 20, "top_p": 0.9, "seed": 3, "repetition_penalty": 1.2}
    with (
        tinyllm.load(SMALL, "cuda", kv_cache=KVCacheConfig(2, 256)) as running,
        tinyllm.load(DATA / "mistral", "cuda", quantization="none") as fresh,  # has kernels of its own, not loaded yet
    ):
        expected = running.generate(prompt, **settings).token_ids
        live = native.library().tl_debug_live_bytes()
        with gpu.filled():
            free = gpu.free
            while_full = running.generate(prompt, **settings).token_ids
            calls: list[Callable[[], object]] = [
                lambda: fresh.logits(prompt),
                lambda: fresh.generate(prompt, **settings),
                lambda: running.generate(prompt, **sampled),
                lambda: fresh.generate(prompt, **sampled),
                lambda: tinyllm.load(SMALL, "cuda").close(),
            ]
            errors = [_out_of_memory(call) for call in calls]
            again_while_full = running.generate(prompt, **settings).token_ids
        result = {
            "free": free,
            "errors": errors,
            "live_same": live == native.library().tl_debug_live_bytes(),
            "expected": expected,
            "running": [while_full, again_while_full, running.generate(prompt, **settings).token_ids],
            "sampled": running.generate(prompt, **sampled).token_ids,
            "fresh": fresh.generate(prompt, **sampled).token_ids,
        }
    with (
        tinyllm.load(SMALL, "cuda", kv_cache=KVCacheConfig(2, 256)) as running,
        tinyllm.load(DATA / "mistral", "cuda", quantization="none") as fresh,
    ):
        result["sampled_expected"] = running.generate(prompt, **sampled).token_ids
        result["fresh_expected"] = fresh.generate(prompt, **sampled).token_ids
    return result


def _out_of_memory(call: Callable[[], object]) -> str:
    """What an OutOfMemoryError of `call` says; empty if there is none."""
    from tinyllm import OutOfMemoryError

    try:
        call()
    except OutOfMemoryError as error:
        return str(error)
    return ""


def automatic(_gpu: Gpu, folder: Path) -> list[dict[str, Any]]:
    """kv_cache="auto" of the model in `folder`, whose context no GPU holds 64 times."""
    import tinyllm

    rows = []
    for fraction in (0.3, 1.0):
        free = tinyllm.devices()[1].free
        with tinyllm.load(folder, "cuda", kv_cache="auto", memory_fraction=fraction) as model:
            use(model)
            report = model.memory()
            cache = model.kv_cache
        rows.append(
            {
                "fraction": fraction,
                "free": free,
                "actual": report.actual_total,
                "planned": report.planned_total,
                "left": report.free,
                "batch": cache.max_batch_size,
                "context": cache.max_seq_len,
                "page_bytes": report.actual["kv_cache"] // (cache.max_batch_size * -(-cache.max_seq_len // 64)),
            }
        )
    return rows


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    runs = {run.__name__: run for run in (architectures, injected, full, automatic)}
    print(json.dumps(runs[name](Gpu(), *map(Path, arguments))))
