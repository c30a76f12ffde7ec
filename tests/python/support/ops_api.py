"""Runs one op of one backend on NumPy arrays: a thin ctypes wrapper of native/testing/testing.h.

Values of the activation type T go in and come out as float32 arrays; inputs that are no T values are rounded on the
way. Linear weights go in with the element type they have, as from a checkpoint. Memory that an op must write before it
is read is NaN, and writes outside a buffer raise; see testing.h. Errors are those of the tinyllm package.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from ops_types import NUMPY_DTYPES, SAMPLE_PARAMS, SAMPLED_TOKEN, Linear
from tinyllm._native import engine as native
from tinyllm.config import QuantizationType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from ops_types import AttentionShape, Batch, Norm, QkvWeights, Rope, Target
    from tinyllm.config import ModelConfig

    Floats = NDArray[np.float32]

_PHASES = {"decode": 0, "prefill": 1}  # tinyllm::Phase

_i32, _f32, _pointer = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


def _struct(name: str, **fields: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


# The structs of testing.h, field by field.
_Target = _struct("_Target", device_kind=_i32, device_index=_i32, dtype=_i32, quantization=_i32, group_size=_i32)
_Tensor = _struct("_Tensor", data=_pointer, dtype=_i32, rows=_i32, cols=_i32, bias=_pointer)
_LinearLoad = _struct(
    "_LinearLoad",
    search_scales=_i32,
    importance=_pointer,
    input_moments=_pointer,
    output_moments=_pointer,
    column_moments=_pointer,
)
_Batch = _struct(
    "_Batch",
    phase=_i32,
    num_rows=_i32,
    num_slots=_i32,
    pages_per_seq=_i32,
    num_pages=_i32,
    max_kv_len=_i32,
    token_ids=_pointer,
    positions=_pointer,
    slots=_pointer,
    rope_lens=_pointer,
    block_table=_pointer,
)
_Norm = _struct("_Norm", weight=_pointer, eps=_f32)
_Rope = _struct(
    "_Rope",
    inv_freq=_pointer,
    rotary_dim=_i32,
    attention_factor=_f32,
    dynamic=_i32,
    theta=_f32,
    factor=_f32,
    original_max_seq_len=_i32,
)
_Shape = _struct("_Shape", num_heads=_i32, num_kv_heads=_i32, head_dim=_i32, window=_i32, softmax_scale=_f32)
_Qkv = _struct("_Qkv", input_norm=_Norm, q=_Tensor, k=_Tensor, v=_Tensor, q_norm=_Norm, k_norm=_Norm)


class _Call:
    """Arguments of one call: C structs whose pointers stay valid because every array they point to is kept here."""

    def __init__(self, target: Target) -> None:
        self._kept: list[NDArray] = []
        self._isa = target.isa
        self.target = _Target(
            device_kind=native.DEVICE_KINDS[target.device],
            device_index=0,
            dtype=native.DTYPES[target.dtype],
            quantization=native.QUANTIZATIONS[target.quantization],
            group_size=target.group_size,
        )

    def array(self, values: ArrayLike, dtype: DTypeLike) -> _pointer:
        """Address of a C-contiguous array of `dtype` with these values: a copy, unless `values` is one already."""
        array = np.ascontiguousarray(values, dtype)
        self._kept.append(array)
        return _pointer(array.ctypes.data)

    def optional(self, values: ArrayLike | None, dtype: DTypeLike) -> _pointer | None:
        return None if values is None else self.array(values, dtype)

    def batch(self, batch: Batch) -> ctypes.Structure:
        num_slots, pages_per_seq = batch.block_table.shape
        arrays = {
            name: self.array(getattr(batch, name), np.int32)
            for name in ("token_ids", "positions", "slots", "rope_lens", "block_table")
        }
        return _Batch(
            phase=_PHASES[batch.phase],
            num_rows=batch.num_rows,
            num_slots=num_slots,
            pages_per_seq=pages_per_seq,
            num_pages=batch.num_pages,
            max_kv_len=batch.max_kv_len,
            **arrays,
        )

    def linear(self, linear: Linear) -> ctypes.Structure:
        rows, cols = linear.weight.shape
        name = linear.weight.dtype.name
        return _Tensor(
            data=self.array(linear.weight, NUMPY_DTYPES[name]),
            dtype=native.DTYPES[name],
            rows=rows,
            cols=cols,
            bias=self.optional(linear.bias, np.float32),
        )

    def norm(self, norm: Norm | None) -> ctypes.Structure:
        return _Norm() if norm is None else _Norm(weight=self.array(norm.weight, np.float32), eps=norm.eps)

    def rope(self, rope: Rope) -> ctypes.Structure:
        return _Rope(
            inv_freq=self.array(rope.inv_freq, np.float32),
            rotary_dim=rope.rotary_dim,
            attention_factor=rope.attention_factor,
            dynamic=rope.dynamic,
            theta=rope.theta,
            factor=rope.factor,
            original_max_seq_len=rope.original_max_seq_len,
        )

    def run(self, name: str, *arguments: object) -> None:
        """Calls tl_test_`name`(target, arguments...): structs by reference, arrays written by the call in place."""
        passed = [ctypes.byref(self.target)]
        for argument in arguments:
            if isinstance(argument, ctypes.Structure):
                passed.append(ctypes.byref(argument))
            elif isinstance(argument, np.ndarray):
                passed.append(_pointer(argument.ctypes.data))
            else:
                passed.append(argument)
        with instruction_set(self._isa):
            native.call(f"tl_test_{name}", *passed)


@contextmanager
def instruction_set(isa: str | None) -> Iterator[None]:
    """Within the context a CPU backend that is opened uses at most `isa`; None leaves its choice alone."""
    if isa is None:
        yield
        return
    before = os.environ.get("TINYLLM_CPU_ISA")
    os.environ["TINYLLM_CPU_ISA"] = isa
    try:
        yield
    finally:
        if before is None:
            del os.environ["TINYLLM_CPU_ISA"]
        else:
            os.environ["TINYLLM_CPU_ISA"] = before


def _shape(shape: AttentionShape) -> ctypes.Structure:
    return _Shape(
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        window=shape.window,
        softmax_scale=shape.softmax_scale,
    )


def load_linear(
    target: Target, weight: NDArray, *, search_scales: bool = False, importance: ArrayLike | None = None
) -> tuple[Floats, Floats, int]:
    """Backend::load_linear of `weight` [n, k], read back. `importance` [k] is for search_scales; False is absmax / 127.

    Returns (values, scales, first_bad): values float32 [n, k] are the int8 weights, or for NONE the weights in T;
    scales float32 [n, groups] (no columns for NONE); first_bad the flat index of the first value that cannot be
    stored, -1 if all can. Where it is not -1, values and scales are NaN.
    """
    call = _Call(target)
    load = _LinearLoad(search_scales=search_scales, importance=call.optional(importance, np.float32))
    values, scales = _unwritten_linear(target, *weight.shape)
    first_bad = ctypes.c_int64()
    call.run("load_linear", call.linear(Linear(weight)), load, values, scales, ctypes.byref(first_bad))
    return values, scales, first_bad.value


def second_moments(target: Target, weight: NDArray, input_moments: ArrayLike) -> tuple[Floats, Floats]:
    """The moments that Backend::load_linear computes of `weight` [n, k].

    Of its outputs for input_moments [k], float32 [n], and of its columns, float32 [k].
    """
    call = _Call(target)
    n, k = weight.shape
    outputs, columns = np.full(n, np.nan, np.float32), np.full(k, np.nan, np.float32)
    load = _LinearLoad(
        input_moments=call.array(input_moments, np.float32),
        output_moments=_pointer(outputs.ctypes.data),
        column_moments=_pointer(columns.ctypes.data),
    )
    first_bad = ctypes.c_int64()
    values, scales = _unwritten_linear(target, n, k)
    call.run("load_linear", call.linear(Linear(weight)), load, values, scales, ctypes.byref(first_bad))
    return outputs, columns


def fill_random(target: Target, n: int, k: int, seed: int) -> tuple[Floats, Floats]:
    """Backend::fill_random of a weight [n, k], read back: values and scales as in `load_linear`."""
    values, scales = _unwritten_linear(target, n, k)
    _Call(target).run("fill_random", _i32(n), _i32(k), ctypes.c_uint64(seed), values, scales)
    return values, scales


def model_scales(config: ModelConfig, device: str, tensors: list[tuple[str, NDArray]]) -> Floats:
    """Scales of all W8A16 matrices of a model that loads `tensors` (canonical name, values) in this order."""
    rope_freq_factors = any(name == "rope_freqs.weight" for name, _ in tensors)
    matrices = [np.atleast_2d(np.ascontiguousarray(values)) for _, values in tensors]
    structs = [
        _Tensor(
            data=matrix.ctypes.data,
            dtype=native.DTYPES[matrix.dtype.name],
            rows=len(matrix) if values.ndim == 2 else 0,
            cols=matrix.shape[1],
        )
        for matrix, (_, values) in zip(matrices, tensors, strict=True)
    ]
    names = [name.encode() for name, _ in tensors]
    scales = np.full(sum(matrix.size for matrix in matrices), np.nan, np.float32)
    count = ctypes.c_int64()
    native.call(
        "tl_test_model_scales",
        ctypes.byref(native.model_struct(config, rope_freq_factors)),
        _i32(native.DEVICE_KINDS[device]),
        _i32(len(tensors)),
        (ctypes.c_char_p * len(names))(*names),
        (_Tensor * len(structs))(*structs),
        _pointer(scales.ctypes.data),
        ctypes.c_int64(scales.size),
        ctypes.byref(count),
    )
    return scales[: count.value]


def _unwritten_linear(target: Target, n: int, k: int) -> tuple[Floats, Floats]:
    """NaN for the values [n, k] and the scales [n, groups] (no columns for NONE) of a weight."""
    groups = -(-k // (target.group_size or k)) if target.quantization is QuantizationType.W8A16 else 0
    return np.full((n, k), np.nan, np.float32), np.full((n, groups), np.nan, np.float32)


def pack_seen(seen: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """The bits of `seen` [slots, vocab] as the ops hold them: token t is bit t % 32 of word t / 32."""
    slots, vocab = seen.shape
    padded = np.pad(seen, ((0, 0), (0, -vocab % 32)))
    return np.packbits(padded, axis=1, bitorder="little").view("<u4").reshape(slots, -1)


def embed(
    target: Target, batch: Batch, table: NDArray, seen: NDArray[np.uint32] | None = None
) -> tuple[Floats, NDArray[np.uint32] | None]:
    """Ops::embed: hidden float32 [rows, hidden_dim] and `seen` [slots, ceil(vocab / 32)] with this step's bits set."""
    call = _Call(target)
    hidden = np.empty((batch.num_rows, table.shape[1]), np.float32)
    seen = None if seen is None else np.array(seen, np.uint32, order="C")
    call.run("embed", call.batch(batch), call.linear(Linear(table)), seen, hidden)
    return hidden, seen


def rope_inv_freq(config: ModelConfig, freq_factors: ArrayLike | None = None) -> Floats:
    """rope_inv_freq of native/ops/rope.h: float32 [rotary_dim / 2]."""
    inv_freq = np.empty(config.rotary_dim // 2, np.float32)
    factors = None if freq_factors is None else np.ascontiguousarray(freq_factors, np.float32)
    native.call(
        "tl_test_rope_inv_freq",
        ctypes.byref(native.model_struct(config)),
        None if factors is None else _pointer(factors.ctypes.data),
        _pointer(inv_freq.ctypes.data),
    )
    return inv_freq


def rope_table(target: Target, batch: Batch, rope: Rope) -> Floats:
    """Ops::rope_table: float32 [rows, 2 (cos, sin), rotary_dim / 2]."""
    call = _Call(target)
    cos_sin = np.empty((batch.num_rows, 2, rope.rotary_dim // 2), np.float32)
    call.run("rope_table", call.batch(batch), call.rope(rope), cos_sin)
    return cos_sin


def qkv(
    target: Target,
    batch: Batch,
    weights: QkvWeights,
    shape: AttentionShape,
    rope: Rope,
    hidden: ArrayLike,
    kv: ArrayLike,
) -> tuple[Floats, Floats]:
    """Ops::qkv of hidden [rows, hidden_dim]: q float32 [rows, heads * head_dim] and the cache with K and V appended.

    `kv` has shape.kv_shape(batch.num_pages); NaN marks cells that hold nothing.
    """
    call = _Call(target)
    c_weights = _Qkv(
        input_norm=call.norm(weights.input_norm),
        q=call.linear(weights.q),
        k=call.linear(weights.k),
        v=call.linear(weights.v),
        q_norm=call.norm(weights.q_norm),
        k_norm=call.norm(weights.k_norm),
    )
    q = np.empty((batch.num_rows, shape.num_heads * shape.head_dim), np.float32)
    kv_after = np.array(kv, np.float32, order="C")
    hidden_pointer = call.array(hidden, np.float32)
    call.run("qkv", call.batch(batch), c_weights, _shape(shape), call.rope(rope), hidden_pointer, kv_after, q)
    return q, kv_after


def attention(target: Target, batch: Batch, shape: AttentionShape, q: ArrayLike, kv: ArrayLike) -> Floats:
    """Ops::attention of q [rows, heads * head_dim] over `kv` (as in `qkv`): float32, same shape as q."""
    call = _Call(target)
    out = np.empty((batch.num_rows, shape.num_heads * shape.head_dim), np.float32)
    call.run("attention", call.batch(batch), _shape(shape), call.array(q, np.float32), call.array(kv, np.float32), out)
    return out


def linear_residual(target: Target, batch: Batch, linear: Linear, x: ArrayLike, hidden: ArrayLike) -> Floats:
    """Ops::linear_residual: hidden [rows, n] + x [rows, k] W^T + b, float32."""
    call = _Call(target)
    out = np.array(hidden, np.float32, order="C")
    call.run("linear_residual", call.batch(batch), call.linear(linear), call.array(x, np.float32), out)
    return out


def gate_up(target: Target, batch: Batch, norm: Norm, gate: Linear, up: Linear, hidden: ArrayLike) -> Floats:
    """Ops::gate_up: silu(gate) * up of hidden [rows, hidden_dim], float32 [rows, intermediate_dim]."""
    call = _Call(target)
    out = np.empty((batch.num_rows, gate.weight.shape[0]), np.float32)
    hidden_pointer = call.array(hidden, np.float32)
    call.run("gate_up", call.batch(batch), call.norm(norm), call.linear(gate), call.linear(up), hidden_pointer, out)
    return out


def logits(
    target: Target, batch: Batch, norm: Norm, head: NDArray, hidden: ArrayLike, logits_rows: ArrayLike
) -> Floats:
    """Ops::logits of the rows `logits_rows` of hidden [rows, hidden_dim]: float32 [len(logits_rows), vocab]."""
    call = _Call(target)
    rows = np.ascontiguousarray(logits_rows, np.int32)
    out = np.empty((len(rows), head.shape[0]), np.float32)
    call.run(
        "logits",
        call.batch(batch),
        call.norm(norm),
        call.linear(Linear(head)),
        call.array(hidden, np.float32),
        rows,
        _i32(len(rows)),
        out,
    )
    return out


def sample(
    target: Target, batch: Batch, logits: ArrayLike, params: NDArray, seen: NDArray[np.uint32] | None = None
) -> NDArray:
    """Ops::sample of logits [rows, vocab], one decode row each: SAMPLED_TOKEN [rows].

    params: SAMPLE_PARAMS [rows]; seen: [slots, ceil(vocab / 32)] or None.
    """
    call = _Call(target)
    vocab_size = np.shape(logits)[1]
    out = np.empty(batch.num_rows, SAMPLED_TOKEN)
    call.run(
        "sample",
        call.batch(batch),
        _i32(vocab_size),
        call.array(logits, np.float32),
        call.array(params, SAMPLE_PARAMS),
        call.optional(seen, np.uint32),
        out,
    )
    return out


def philox(seed: int, counter0: int, counter1: int) -> tuple[NDArray[np.uint32], Floats]:
    """philox4x32_10 and gumbel of native/ops/philox.h: four words and the noise of each."""
    words, noise = np.empty(4, np.uint32), np.empty(4, np.float32)
    native.call(
        "tl_test_philox",
        ctypes.c_uint64(seed),
        ctypes.c_uint32(counter0),
        ctypes.c_uint32(counter1),
        _pointer(words.ctypes.data),
        _pointer(noise.ctypes.data),
    )
    return words, noise
