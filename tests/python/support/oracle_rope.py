"""RoPE frequencies of every type in float64 NumPy, after Hugging Face transformers' modeling_rope_utils.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tinyllm.config import ModelConfig

    Doubles = NDArray[np.float64]


def inverse_frequencies(config: ModelConfig) -> Doubles:
    """Radians a position of each pair, [rotary_dim / 2]; for dynamic those within the original context."""
    plain = config.rope_theta ** (-np.arange(0, config.rotary_dim, 2) / config.rotary_dim)
    if config.rope_type == "linear":
        return plain / config.rope_factor
    if config.rope_type == "llama3":
        return _llama3(plain, config)
    if config.rope_type == "yarn":
        return _yarn(plain, config)
    return plain


def _llama3(plain: Doubles, config: ModelConfig) -> Doubles:
    """Frequencies that turn less than low_freq_factor times in the original context are divided, fast ones kept."""
    turns = config.rope_original_max_seq_len * plain / (2 * np.pi)
    span = config.rope_high_freq_factor - config.rope_low_freq_factor
    kept_share = np.clip((turns - config.rope_low_freq_factor) / span, 0, 1)
    return plain * (kept_share + (1 - kept_share) / config.rope_factor)


def _yarn(plain: Doubles, config: ModelConfig) -> Doubles:
    """NTK by parts: a linear ramp over the pairs between beta_fast and beta_slow turns in the original context."""

    def pair_that_turns(count: float) -> float:
        wavelength = config.rope_original_max_seq_len / count
        return config.rotary_dim * np.log(wavelength / (2 * np.pi)) / (2 * np.log(config.rope_theta))

    low, high = pair_that_turns(config.rope_beta_fast), pair_that_turns(config.rope_beta_slow)
    if config.rope_truncate:
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0), min(high, config.rotary_dim - 1)
    if low == high:
        high += 0.001
    divided_share = np.clip((np.arange(len(plain)) - low) / (high - low), 0, 1)
    return plain * (1 - divided_share + divided_share / config.rope_factor)
