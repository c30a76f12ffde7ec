"""Random weights in which every feature of an architecture shows in the logits.

The scales are chosen so that logits have a standard deviation of about 2, attention scores of about 2 (far from
uniform attention), and each layer changes the residual stream by about its own size. Biases and norm weights are
random too: with the usual zeros and ones a test could not see them ignored.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch

# Standard deviation of the output for an input of unit variance; the weight's is this over sqrt(in_features).
_OUTPUT_STD = {
    "q_proj": 1.4,
    "k_proj": 1.4,
    "v_proj": 1.2,
    "o_proj": 1.2,
    "gate_proj": 1.4,
    "up_proj": 1.2,
    "down_proj": 1.2,
    "lm_head": 2.0,
}
_BIAS_STD = 0.5
_NORM_RANGE = (0.5, 1.5)
_QK_NORM_RANGE = (0.8, 1.8)  # scores are a sum over products of normalised heads: its square sets their size


def random_state(model: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    """Float32 weights for every parameter of a transformers causal model, drawn from a generator seeded by `name`.

    A tied lm_head is left out, as in a saved checkpoint.
    """
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    tied = model.config.tie_word_embeddings
    state = {}
    for key, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        layer, kind = key.split(".")[-2:]
        if kind == "bias":
            values = generator.normal(0.0, _BIAS_STD, shape)
        elif layer in ("q_norm", "k_norm"):
            values = generator.uniform(*_QK_NORM_RANGE, shape)
        elif len(shape) == 1:
            values = generator.uniform(*_NORM_RANGE, shape)
        elif layer == "embed_tokens":
            values = generator.normal(0.0, _OUTPUT_STD["lm_head"] / math.sqrt(shape[1]) if tied else 1.0, shape)
        else:
            values = generator.normal(0.0, _OUTPUT_STD[layer] / math.sqrt(shape[1]), shape)
        state[key] = torch.from_numpy(values.astype(np.float32))
    return state
