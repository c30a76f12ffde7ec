"""What op tests are made of: the target a case runs on, the rows of a step, and the weights of the ops.

These mirror native/testing/testing.h and native/ops/ops.h. Both the oracle (oracle.py) and the library (ops_api.py)
take them, so that a test states its case once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from tinyllm.config import QuantizationType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

PAGE_TOKENS = 64  # kPageTokens of native/config/limits.h

# Values of TINYLLM_CPU_ISA (native/backends/cpu/simd/isa.h), each including the ones before it.
CPU_INSTRUCTION_SETS = ("portable", "avx2", "avx512")

NUMPY_DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

# tinyllm::SampleParams and tinyllm::SampledToken of native/ops/sampling_settings.h and ops.h.
SAMPLE_PARAMS = np.dtype(
    [
        ("seed", np.uint64),
        ("temperature", np.float32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("repetition_penalty", np.float32),
        ("top_k", np.int32),
        ("logprobs", np.int32),
        ("position", np.int32),
        ("slot", np.int32),
    ]
)
SAMPLED_TOKEN = np.dtype([("token_id", np.int32), ("logprob", np.float32)])


def rounded(values: ArrayLike, dtype: str) -> NDArray[np.float32]:
    """`values` rounded to a type of NUMPY_DTYPES, as float32."""
    return np.asarray(values, np.float32).astype(NUMPY_DTYPES[dtype]).astype(np.float32)


@dataclass(frozen=True)
class Target:
    """Where and in which types an op runs."""

    device: str = "cpu"  # "cpu" or "cuda"
    dtype: str = "float16"  # T, a key of NUMPY_DTYPES; float32 on the CPU only
    quantization: QuantizationType = QuantizationType.W8A16
    group_size: int = 128  # 0: one group a row
    isa: str | None = None  # one of CPU_INSTRUCTION_SETS; None: the backend's choice

    def round(self, values: ArrayLike) -> NDArray[np.float32]:
        """`values` rounded to T, as float32."""
        return rounded(values, self.dtype)


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of one sequence: `count` rows from position `start` on. Slot -1 makes padding rows."""

    slot: int
    start: int
    count: int


@dataclass(frozen=True)
class Batch:
    """The rows of one step: StepBatch of native/ops/ops.h. All arrays are int32."""

    phase: str  # "decode" or "prefill"
    token_ids: NDArray[np.int32]  # [rows]
    positions: NDArray[np.int32]  # [rows]
    slots: NDArray[np.int32]  # [rows]
    rope_lens: NDArray[np.int32]  # [rows]
    block_table: NDArray[np.int32]  # [slots, pages_per_seq]
    num_pages: int
    max_kv_len: int

    @classmethod
    def of(
        cls,
        phase: str,
        segments: Sequence[Segment],
        *,
        token_ids: ArrayLike | None = None,
        rope_lens: ArrayLike | None = None,
        seed: int = 0,
    ) -> Batch:
        """Rows of `segments` in order. Pages are dealt out in an order drawn from `seed`; some stay unused.

        token_ids default to 0, rope_lens to the length of each row's sequence after this step.
        """
        real = [segment for segment in segments if segment.slot >= 0]
        longest = max((segment.start + segment.count for segment in real), default=1)
        num_slots = max((segment.slot for segment in real), default=0) + 1
        pages_per_seq = -(-longest // PAGE_TOKENS)
        num_pages = num_slots * pages_per_seq + 3
        pages = np.random.default_rng(seed).permutation(num_pages)[: num_slots * pages_per_seq]
        if token_ids is None:
            token_ids = np.zeros(sum(segment.count for segment in segments))
        if rope_lens is None:
            rope_lens = np.concatenate([np.full(s.count, s.start + s.count) for s in segments])
        return cls(
            phase=phase,
            token_ids=np.asarray(token_ids, np.int32),
            positions=np.concatenate([np.arange(s.start, s.start + s.count) for s in segments]).astype(np.int32),
            slots=np.concatenate([np.full(s.count, s.slot) for s in segments]).astype(np.int32),
            rope_lens=np.asarray(rope_lens, np.int32),
            block_table=pages.reshape(num_slots, pages_per_seq).astype(np.int32),
            num_pages=num_pages,
            max_kv_len=longest,
        )

    @classmethod
    def of_rows(cls, phase: str, num_rows: int, *, token_ids: ArrayLike | None = None) -> Batch:
        """`num_rows` rows for ops that ignore positions: one sequence a row in decode, one sequence in prefill."""
        if phase == "decode":
            return cls.of(phase, [Segment(row, 0, 1) for row in range(num_rows)], token_ids=token_ids)
        return cls.of(phase, [Segment(0, 0, num_rows)], token_ids=token_ids)

    @property
    def num_rows(self) -> int:
        return len(self.positions)

    def take(self, rows: Sequence[int]) -> Batch:
        """The same step with only some of its rows, in the order given. Pages stay where they are."""
        index = list(rows)
        return replace(
            self,
            token_ids=self.token_ids[index],
            positions=self.positions[index],
            slots=self.slots[index],
            rope_lens=self.rope_lens[index],
        )


@dataclass(frozen=True)
class Linear:
    """A linear layer as in a checkpoint: weight [n, k] of float32, float16 or bfloat16, bias float32 [n] or None."""

    weight: NDArray
    bias: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Norm:
    """An RMSNorm: weight float32 [features]."""

    weight: NDArray[np.float32]
    eps: float = 1e-5


@dataclass(frozen=True)
class Rope:
    """RopeParams of native/ops/ops.h; inv_freq float32 [rotary_dim / 2]. theta and below matter only if dynamic."""

    inv_freq: NDArray[np.float32]
    attention_factor: float = 1.0
    dynamic: bool = False
    theta: float = 10000.0
    factor: float = 1.0
    original_max_seq_len: int = 1

    @property
    def rotary_dim(self) -> int:
        return 2 * len(self.inv_freq)


@dataclass(frozen=True)
class AttentionShape:
    """AttentionShape of native/ops/ops.h."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int = 0

    @property
    def q_per_kv(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def softmax_scale(self) -> float:
        return float(np.float32(self.head_dim**-0.5))

    def kv_shape(self, num_pages: int) -> tuple[int, ...]:
        """Shape of one layer of the KV cache: [pages, K or V, KV heads, tokens, head_dim]."""
        return (num_pages, 2, self.num_kv_heads, PAGE_TOKENS, self.head_dim)


@dataclass(frozen=True)
class QkvWeights:
    """What the qkv op is made of. q_norm and k_norm are per head, [head_dim]."""

    input_norm: Norm
    q: Linear
    k: Linear
    v: Linear
    q_norm: Norm | None = None
    k_norm: Norm | None = None
