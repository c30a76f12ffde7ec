"""Every op but sampling in float64 NumPy, written for reading: what the backends are compared with.

Functions take the types of ops_types.py; activations are arrays of T values. A result comes with `scale`: per element
the size (2-norm) of the terms that were summed to it, which is what rounding errors are relative to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ops_types import PAGE_TOKENS, rounded
from tinyllm.config import QuantizationType

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ops_types import AttentionShape, Batch, Linear, Norm, QkvWeights, Rope, Target

    Doubles = NDArray[np.float64]


class Expected(NamedTuple):
    """A result and the size of its terms, both of one shape."""

    value: Doubles
    scale: Doubles


class Quantized(NamedTuple):
    """int8 weights as float32 [n, k] and their float16 scales as float32 [n, groups]."""

    values: NDArray[np.float32]
    scales: NDArray[np.float32]


def _group_length(k: int, group_size: int) -> int:
    return group_size or k


def _grouped(values: NDArray, length: int) -> NDArray[np.float32]:
    """The rows of `values` [n, k] cut into groups: float32 [n, groups, length], the last padded with zeros."""
    n, k = values.shape
    groups = -(-k // length)
    return np.pad(np.asarray(values, np.float32), ((0, 0), (0, groups * length - k))).reshape(n, groups, length)


def quantize(weight: NDArray, group_size: int, given_scales: NDArray | None = None) -> Quantized:
    """W8A16 as Backend::load_linear states it, in the same float32 arithmetic: exact.

    given_scales: float32 [n, groups] of float16 values; None for absmax / 127.
    """
    n, k = weight.shape
    length = _group_length(k, group_size)
    padded = _grouped(weight, length)
    groups = padded.shape[1]
    scales = rounded(np.abs(padded).max(axis=2) / np.float32(127), "float16") if given_scales is None else given_scales
    divisor = np.where(scales > 0, scales, np.float32(np.inf))[:, :, None]
    values = np.clip(np.rint(padded / divisor), -127, 127)
    return Quantized(values.reshape(n, groups * length)[:, :k], scales)


def choose_scales(weight: NDArray, group_size: int, importance: NDArray | None = None) -> NDArray[np.float32]:
    """Scales [n, groups] as quantization/scale_search.h states them, in the same float32 arithmetic: exact."""
    k = weight.shape[1]
    length = _group_length(k, group_size)
    lanes_padding = ((0, 0), (0, 0), (0, -length % 16))
    groups = np.pad(_grouped(weight, length), lanes_padding)
    counts = np.pad(_grouped(np.ones((1, k)) if importance is None else importance[None], length), lanes_padding)

    def error(scales: NDArray[np.float32]) -> NDArray[np.float32]:
        divisor = scales[..., None]
        rounding = groups - np.rint(np.clip(groups * (np.float32(1) / divisor), -127, 127)) * divisor
        terms = counts * (rounding * rounding)
        lanes = np.zeros((*scales.shape, 16), np.float32)
        for start in range(0, terms.shape[2], 16):
            lanes += terms[..., start : start + 16]
        total = np.zeros(scales.shape, np.float32)
        for lane in range(16):
            total += lanes[..., lane]
        return total

    unit = np.abs(groups).max(axis=2) / np.float32(127)
    best = rounded(unit, "float16")
    fixed = (best == 0) | np.isinf(best)
    with np.errstate(all="ignore"):  # groups whose scale is fixed, and candidates out of float16's range
        least = error(best)
        for percent in range(90, 121):
            scales = rounded(unit * (np.float32(percent) / np.float32(100)), "float16")
            found = error(scales)
            better = ~fixed & (scales > 0) & np.isfinite(scales) & (found < least)
            best, least = np.where(better, scales, best), np.where(better, found, least)
    return best


def second_moments(weight: NDArray, input_moments: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Moments of the outputs [n] and the columns [k] of `weight` as quantization/moments.h states them: exact."""
    values = np.asarray(weight, np.float32)
    lanes_padding = -values.shape[1] % 16
    terms = np.pad(values * values * input_moments.astype(np.float32), ((0, 0), (0, lanes_padding)))
    lanes = np.zeros((len(values), 16), np.float32)
    for start in range(0, terms.shape[1], 16):
        lanes += terms[:, start : start + 16]
    outputs = np.zeros(len(values), np.float32)
    for lane in range(16):
        outputs += lanes[:, lane]
    columns = np.zeros(values.shape[1])
    for row in values.astype(np.float64):
        columns += row * row
    return outputs, (columns / len(values)).astype(np.float32)


def random_weight(n: int, k: int, seed: int) -> NDArray[np.int32]:
    """The integers [n, k] of quantization/random_weights.h."""
    blocks = -(-k // 8)
    with np.errstate(over="ignore"):
        x = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.arange(n * blocks, dtype=np.uint64)
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    values = x.astype("<u8").view(np.uint8).astype(np.int32).reshape(n, 8 * blocks)[:, :k] - 128
    return np.where(values == 0, 1, np.maximum(values, -127))


def dequantize(quantized: Quantized, group_size: int) -> Doubles:
    """values * scales, float64 [n, k]."""
    k = quantized.values.shape[1]
    return (
        quantized.values.astype(np.float64) * np.repeat(quantized.scales, _group_length(k, group_size), axis=1)[:, :k]
    )


def stored_weight(weight: NDArray, target: Target) -> Doubles:
    """The values of a weight [n, k] once `target` holds it: quantised, or rounded to T."""
    if target.quantization is QuantizationType.W8A16:
        return dequantize(quantize(weight, target.group_size), target.group_size)
    return target.round(weight).astype(np.float64)


def rms_norm(x: ArrayLike, norm: Norm) -> Doubles:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    x = np.asarray(x, np.float64)
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(norm.eps)) * norm.weight


def linear(x: ArrayLike, layer: Linear, target: Target) -> Expected:
    """x [rows, k] times the stored weight [n, k], plus bias."""
    x = np.asarray(x, np.float64)
    weight = stored_weight(layer.weight, target)
    bias = 0.0 if layer.bias is None else layer.bias.astype(np.float64)
    return Expected(x @ weight.T + bias, np.sqrt((x * x) @ (weight * weight).T) + np.abs(bias))


def linear_residual(x: ArrayLike, layer: Linear, hidden: ArrayLike, target: Target) -> Expected:
    """hidden + x W^T + b."""
    product = linear(x, layer, target)
    hidden = np.asarray(hidden, np.float64)
    return Expected(hidden + product.value, product.scale + np.abs(hidden))


def silu(x: Doubles) -> Doubles:
    """x * sigmoid(x)."""
    return x / (1 + np.exp(-x))


def gate_up(hidden: ArrayLike, norm: Norm, gate: Linear, up: Linear, target: Target) -> Expected:
    """silu(gate) * up of the normalised rows."""
    x = rms_norm(hidden, norm)
    g, u = linear(x, gate, target), linear(x, up, target)
    # silu's slope is below 1.1; the two factors may be rounded to T before they are multiplied.
    gate_error, up_error = g.scale + np.abs(g.value), u.scale + np.abs(u.value)
    return Expected(silu(g.value) * u.value, 1.1 * gate_error * np.abs(u.value) + np.abs(silu(g.value)) * up_error)


def logits(hidden: ArrayLike, norm: Norm, head: Linear, rows: ArrayLike, target: Target) -> Expected:
    """Normalised rows `rows` times the output matrix."""
    return linear(rms_norm(np.asarray(hidden)[rows], norm), head, target)


def rope_angles(batch: Batch, rope: Rope) -> Doubles:
    """Angle of each row and pair in radians, [rows, rotary_dim / 2].

    The product position * inv_freq is rounded to float32, as transformers computes it.
    """
    inv_freq = np.broadcast_to(rope.inv_freq, (batch.num_rows, len(rope.inv_freq)))
    if rope.dynamic:
        inv_freq = np.stack([dynamic_inv_freq(rope, int(length)) for length in batch.rope_lens])
    return (batch.positions[:, None].astype(np.float32) * inv_freq.astype(np.float32)).astype(np.float64)


def dynamic_inv_freq(rope: Rope, length: int) -> Doubles:
    """Dynamic NTK: inverse frequencies of theta stretched so that `length` tokens fit the original context."""
    if length <= rope.original_max_seq_len:
        return np.asarray(rope.inv_freq, np.float64)
    dim, factor = rope.rotary_dim, np.float64(np.float32(rope.factor))
    stretch = factor * length / rope.original_max_seq_len - (factor - 1)
    theta = np.float64(np.float32(rope.theta)) * stretch ** (dim / (dim - 2))
    return theta ** (-2 * np.arange(dim // 2) / dim)


def rope_table(batch: Batch, rope: Rope) -> Expected:
    """attention_factor * (cos, sin) of the angles, [rows, 2, rotary_dim / 2]; scale is the size of the angle."""
    angles = rope_angles(batch, rope)
    table = np.float32(rope.attention_factor) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Expected(table, rope.attention_factor * np.stack([np.abs(angles)] * 2, axis=1))


def _rotate(heads: Expected, table: Doubles) -> Expected:
    """RoPE of [rows, heads, head_dim]: pairs (i, i + rotary_dim / 2) of the first rotary_dim."""
    cos, sin = table[:, None, 0], table[:, None, 1]
    half = table.shape[2]
    first, second, rest = np.split(heads.value, [half, 2 * half], axis=2)
    value = np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=2)
    # Both members of a pair may have been rounded to T before they were turned.
    error = heads.scale + np.abs(heads.value)
    a, b, c = np.split(error, [half, 2 * half], axis=2)
    mixed = np.abs(cos) * a + np.abs(sin) * b, np.abs(cos) * b + np.abs(sin) * a
    return Expected(value, np.concatenate([*mixed, c], axis=2))


def _head_norm(heads: Expected, norm: Norm | None) -> Expected:
    """RMSNorm of each head of [rows, heads, head_dim]."""
    if norm is None:
        return heads
    x = heads.value
    factor = np.abs(norm.weight) / np.sqrt(np.mean(x * x, axis=2, keepdims=True) + np.float32(norm.eps))
    # A rounding error of any feature reaches all of the head through its mean square.
    error = heads.scale + np.abs(x)
    shared = np.sqrt(np.mean(error * error, axis=2, keepdims=True)) * np.abs(rms_norm(x, norm))
    rms = np.sqrt(np.mean(x * x, axis=2, keepdims=True) + np.float32(norm.eps))
    return Expected(rms_norm(x, norm), error * factor + shared / rms)


class ExpectedQkv(NamedTuple):
    """q [rows, heads, head_dim], k and v [rows, kv_heads, head_dim]."""

    q: Expected
    k: Expected
    v: Expected


def qkv(
    hidden: ArrayLike, weights: QkvWeights, shape: AttentionShape, batch: Batch, rope: Rope, target: Target
) -> ExpectedQkv:
    """Norm, projections, Q/K norm and RoPE; what the op puts into its q output and appends to the cache."""
    x = rms_norm(hidden, weights.input_norm)

    def heads(layer: Linear) -> Expected:
        flat = linear(x, layer, target)
        split = (batch.num_rows, -1, shape.head_dim)
        return Expected(flat.value.reshape(split), flat.scale.reshape(split))

    table = rope_table(batch, rope).value
    return ExpectedQkv(
        _rotate(_head_norm(heads(weights.q), weights.q_norm), table),
        _rotate(_head_norm(heads(weights.k), weights.k_norm), table),
        heads(weights.v),
    )


def cache_cells(batch: Batch, rows: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Page and token in the page of the positions of `rows`."""
    pages = batch.block_table[batch.slots[rows], batch.positions[rows] // PAGE_TOKENS]
    return pages, batch.positions[rows] % PAGE_TOKENS


def attention(q: ArrayLike, kv: NDArray, shape: AttentionShape, batch: Batch) -> Expected:
    """Softmax attention of q [rows, heads * head_dim] over the paged cache, causal, with sliding window.

    Padding rows (slot -1) give zeros.
    """
    queries = np.asarray(q, np.float64).reshape(batch.num_rows, shape.num_kv_heads, shape.q_per_kv, shape.head_dim)
    value, scale = np.zeros(queries.shape), np.zeros(queries.shape)
    for row, (slot, position) in enumerate(zip(batch.slots, batch.positions, strict=True)):
        if slot < 0:
            continue
        first = max(0, position - shape.window + 1) if shape.window else 0
        seen = np.arange(first, position + 1)
        # [kv_heads, seen, head_dim] of K and of V.
        tiles = kv[batch.block_table[slot, seen // PAGE_TOKENS], :, :, seen % PAGE_TOKENS].astype(np.float64)
        keys, values = tiles[:, 0].transpose(1, 0, 2), tiles[:, 1].transpose(1, 0, 2)
        scores = np.float32(shape.softmax_scale) * queries[row] @ keys.transpose(0, 2, 1)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        value[row] = weights @ values
        scale[row] = weights @ np.abs(values)
    return Expected(value.reshape(batch.num_rows, -1), scale.reshape(batch.num_rows, -1))
