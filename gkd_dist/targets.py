"""What a teacher says about a completion, one class per transport (floor F0: stdlib and numpy).

Shapes: L completion tokens, H hidden size, V vocabulary, K teacher top-K. Row t always predicts completion token t.
Every record checks its own shapes and dtypes when constructed and raises ValueError.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gkd_dist.array_faults import bad_log_probs, negative_ids, not_finite, not_finite_bfloat16

LEAST_LOG_PROB = -9999.0
"""Stands for log 0, which no message may carry, from every engine: here as in vLLM's server. Products with it stay
finite in float32."""


@dataclass(frozen=True, slots=True)
class HiddenTargets:
    """Teacher hidden states after the final norm, at the positions that predict the completion."""

    hidden: npt.NDArray[np.uint16] | npt.NDArray[np.float32]
    """[L, H]; float32, or uint16 holding bfloat16 bits. Row t predicts completion token t."""

    def __post_init__(self) -> None:
        if self.hidden.dtype not in (np.dtype(np.float32), np.dtype(np.uint16)) or self.hidden.ndim != 2:
            raise ValueError(f"hidden must be [L, H] float32 or uint16, got {self.hidden.dtype} {self.hidden.shape}")

    @property
    def num_tokens(self) -> int:
        return int(self.hidden.shape[0])

    @property
    def num_bytes(self) -> int:
        return int(self.hidden.nbytes)

    @property
    def fault(self) -> str | None:
        """What no model can say here, if anything."""
        bits = self.hidden.dtype == np.dtype(np.uint16)
        return _fault("hidden", self.hidden, not_finite_bfloat16 if bits else not_finite)


@dataclass(frozen=True, slots=True)
class FullTargets:
    """Teacher log-probs over the whole vocabulary, at temperature 1."""

    log_probs: npt.NDArray[np.float32]
    """[L, V] float32, log-softmax of the teacher. Row t predicts completion token t."""

    def __post_init__(self) -> None:
        _require("log_probs", self.log_probs, np.float32, 2)

    @property
    def num_tokens(self) -> int:
        return int(self.log_probs.shape[0])

    @property
    def num_bytes(self) -> int:
        return int(self.log_probs.nbytes)

    @property
    def fault(self) -> str | None:
        """What no model can say here, if anything."""
        return _fault("log_probs", self.log_probs, bad_log_probs)


@dataclass(frozen=True, slots=True)
class TopKTargets:
    """The teacher's K most probable ids at each position, at temperature 1; what is missing to 1 is its tail."""

    token_ids: npt.NDArray[np.int32]
    """[L, K] int32, no id twice in a row; the most probable first."""
    log_probs: npt.NDArray[np.float32]
    """[L, K] float32, normalised over the whole vocabulary."""

    def __post_init__(self) -> None:
        _require("token_ids", self.token_ids, np.int32, 2)
        _require("log_probs", self.log_probs, np.float32, 2)
        if self.token_ids.shape != self.log_probs.shape or self.token_ids.shape[1] < 1:
            raise ValueError(
                f"token_ids {self.token_ids.shape} and log_probs {self.log_probs.shape} must both be [L, K], K >= 1"
            )

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def num_bytes(self) -> int:
        return int(self.token_ids.nbytes + self.log_probs.nbytes)

    @property
    def fault(self) -> str | None:
        """What no model can say here, if anything."""
        return _fault("token_ids", self.token_ids, negative_ids) or _fault("log_probs", self.log_probs, bad_log_probs)


@dataclass(frozen=True, slots=True)
class SampledTargets:
    """The teacher's log-prob of every completion token itself, at temperature 1."""

    log_probs: npt.NDArray[np.float32]
    """[L] float32, normalised over the whole vocabulary."""

    def __post_init__(self) -> None:
        _require("log_probs", self.log_probs, np.float32, 1)

    @property
    def num_tokens(self) -> int:
        return int(self.log_probs.shape[0])

    @property
    def num_bytes(self) -> int:
        return int(self.log_probs.nbytes)

    @property
    def fault(self) -> str | None:
        """What no model can say here, if anything."""
        return _fault("log_probs", self.log_probs, bad_log_probs)


TeacherTargets = HiddenTargets | FullTargets | TopKTargets | SampledTargets


@dataclass(frozen=True, slots=True)
class TargetsHandle:
    """Stands for teacher targets that stay where the teacher put them, until the learner asks.

    Payloads never pass through the controller; it moves these handles instead.
    """

    reference: object
    """Opaque to everybody but the proxies (a Ray object reference, say)."""
    index: int
    """Which record of the referenced message."""
    num_tokens: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Fixed pairs that a teacher was to score, by whether they were kept from a former time; bytes are of targets,
    tokens of the sequences that it did not read."""

    num_hits: int = 0
    num_misses: int = 0
    hit_bytes: int = 0
    miss_bytes: int = 0
    hit_tokens: int = 0

    def __add__(self, other: "CacheUse") -> "CacheUse":
        return CacheUse(
            self.num_hits + other.num_hits,
            self.num_misses + other.num_misses,
            self.hit_bytes + other.hit_bytes,
            self.miss_bytes + other.miss_bytes,
            self.hit_tokens + other.hit_tokens,
        )


def _require(name: str, array: npt.NDArray[np.generic], dtype: type, ndim: int) -> None:
    if array.dtype != np.dtype(dtype) or array.ndim != ndim:
        raise ValueError(f"{name} must be {np.dtype(dtype)} with {ndim} axes, got {array.dtype} {array.shape}")


def _fault(name: str, array: npt.NDArray[np.generic], check: Callable[[npt.NDArray[Any]], str | None]) -> str | None:
    problem = check(array) if array.size else None
    return problem and f"{name}: {problem}"
