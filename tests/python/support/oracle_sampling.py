"""Sampling in NumPy: the Philox/Gumbel draw of native/ops/philox.h and the filters of Ops::sample.

Order of the filters: repetition penalty, temperature, top-k, top-p, min-p. Penalty: a seen token's logit is divided by
the penalty if positive, else multiplied (Keskar et al. 2019). Top-p keeps the most probable tokens up to the first
whose cumulative probability, among what top-k left, reaches top_p (Holtzman et al. 2019); min-p keeps tokens of at
least min_p times the highest probability (Nguyen et al. 2024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tolerances import FILTER_BORDER

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Doubles = NDArray[np.float64]
    Bools = NDArray[np.bool_]

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MASK = np.uint64(0xFFFFFFFF)


def philox4x32_10(seed: int, counters: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Philox4x32-10 (Salmon et al. 2011) of counters [..., 4] under a 64-bit key: uint32 [..., 4]."""
    c0, c1, c2, c3 = (counters[..., word].astype(np.uint64) for word in range(4))
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        product0, product1 = np.uint64(_MULTIPLIERS[0]) * c0, np.uint64(_MULTIPLIERS[1]) * c2
        shift = np.uint64(32)
        c0, c2 = (product1 >> shift) ^ c1 ^ np.uint64(key[0]), (product0 >> shift) ^ c3 ^ np.uint64(key[1])
        c1, c3 = product1 & _MASK, product0 & _MASK
        key = [(word + step) & 0xFFFFFFFF for word, step in zip(key, _KEY_STEPS, strict=True)]
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def gumbel_of_words(words: NDArray[np.uint32]) -> Doubles:
    """-log(-log(u)) with u = (upper 23 bits + 1/2) / 2^23."""
    uniform = ((words >> np.uint32(9)).astype(np.float64) + 0.5) / 2**23
    return -np.log(-np.log(uniform))


def gumbel_noise(seed: int, position: int, vocab_size: int) -> Doubles:
    """Noise of every token at one position of a request, [vocab_size]."""
    counters = np.zeros((-(-vocab_size // 4), 4), np.uint32)
    counters[:, 0] = np.arange(len(counters))
    counters[:, 1] = position
    return gumbel_of_words(philox4x32_10(seed, counters)).reshape(-1)[:vocab_size]


def log_softmax(logits: ArrayLike) -> Doubles:
    shifted = np.asarray(logits, np.float64) - np.max(logits)
    return shifted - np.log(np.exp(shifted).sum())


def penalized(logits: ArrayLike, seen: Bools, penalty: float) -> Doubles:
    """Logits after the repetition penalty. seen: bool [vocab_size]."""
    logits = np.asarray(logits, np.float64)
    return np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)


class Kept(NamedTuple):
    """Tokens that the filters keep: surely, and perhaps (ties, or too near a border for float32 to decide)."""

    surely: Bools
    perhaps: Bools


def kept_tokens(scaled: Doubles, top_k: int, top_p: float, min_p: float) -> Kept:
    """The tokens that pass top-k, top-p and min-p. scaled: logits after penalty and temperature, [vocab_size].

    Of tokens that tie at a border, any may be the ones kept, and top-p may count the others or not.
    """
    exponentials = np.exp(scaled - scaled.max())
    ascending = np.sort(exponentials)
    count = top_k if 0 < top_k < len(scaled) else len(scaled)
    border = ascending[-count]
    perhaps = exponentials >= border
    surely = perhaps if perhaps.sum() == count else exponentials > border
    if top_p < 1:
        # A token is kept while the probability of all that come before it is below top_p.
        above = np.concatenate([[0.0], np.cumsum(ascending[::-1])])
        least_total, most_total = above[count], above[perhaps.sum()]
        better = above[len(scaled) - np.searchsorted(ascending, exponentials, side="right")]
        better_or_equal = above[len(scaled) - np.searchsorted(ascending, exponentials, side="left")] - exponentials
        perhaps = perhaps & (better / most_total < top_p + FILTER_BORDER)
        surely = surely & (better_or_equal / least_total < top_p - FILTER_BORDER)
    perhaps = perhaps & (exponentials >= min_p * (1 - FILTER_BORDER))
    surely = surely & (exponentials >= min_p * (1 + FILTER_BORDER))
    return Kept(surely, perhaps)


def allowed_samples(logits: ArrayLike, seen: Bools, params: np.void, tolerance: float) -> Bools:
    """Tokens that the sample op may return: [vocab_size].

    params: one SAMPLE_PARAMS. tolerance: scores (logit / temperature + noise) closer than this, relative to their size
    and absolutely, are equal.
    """
    scores = penalized(logits, seen, float(params["repetition_penalty"]))
    if params["temperature"] == 0:
        kept = Kept(*[np.ones(len(scores), bool)] * 2)
    else:
        scores = scores / float(params["temperature"])
        kept = kept_tokens(scores, int(params["top_k"]), float(params["top_p"]), float(params["min_p"]))
        scores = scores + gumbel_noise(int(params["seed"]), int(params["position"]), len(scores))
    best = np.max(scores[kept.surely], initial=-np.inf)
    return kept.perhaps & (scores >= best - tolerance * (1 + np.abs(scores)))
