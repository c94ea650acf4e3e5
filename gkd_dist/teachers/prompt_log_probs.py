"""What serving engines say about tokens they were given, and how it becomes teacher targets. One class per transport.

An engine that is asked for K candidates answers, for each token of its prompt, with the K most probable ids and with
the token itself, whether or not that is among them.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gkd_dist.errors import ConfigError, EngineError
from gkd_dist.targets import SampledTargets, TeacherTargets, TopKTargets

_LEAST_LOG_PROB = -9999.0
"""Stands for log 0, here as in vLLM's server."""
_ROUNDING = 1e-3
"""By how much a sum of probabilities may exceed 1."""


@dataclass(frozen=True, slots=True, eq=False)
class PromptLogProbs:
    """What an engine says about L tokens, normalised over its whole vocabulary."""

    chosen: npt.NDArray[np.float32]
    """[L] float32 log-prob of each token itself."""
    token_ids: npt.NDArray[np.int32]
    """[L, K] int32, the most probable first; K may be 0."""
    log_probs: npt.NDArray[np.float32]
    """[L, K] float32, of these."""

    def __post_init__(self) -> None:
        if self.token_ids.shape != self.log_probs.shape or self.chosen.shape != self.log_probs.shape[:1]:
            raise ValueError(
                f"chosen {self.chosen.shape}, token_ids {self.token_ids.shape} and log_probs {self.log_probs.shape} "
                "do not belong together"
            )


class PromptScoring(Protocol):
    """What to ask a serving engine for, and what to make of the answer."""

    @property
    def num_candidates(self) -> int:
        """K to ask for; 0 asks for the tokens themselves alone."""
        ...

    def targets(self, found: PromptLogProbs) -> TeacherTargets:
        """Raises EngineError where `found` cannot be log-probs of the shared ids."""
        ...


class TopKScoring:
    """The `topk` transport.

    Args:
        top_k: K.
        num_ids: real ids that teacher and student share.

    Raises:
        ConfigError: K is more than there are ids.
    """

    def __init__(self, top_k: int, num_ids: int) -> None:
        check_top_k(top_k, num_ids)
        self.num_candidates = top_k
        self._num_ids = num_ids

    def targets(self, found: PromptLogProbs) -> TopKTargets:
        _check(found)
        if found.token_ids.max(initial=0) >= self._num_ids:
            raise EngineError(
                f"the teacher finds id {found.token_ids.max()} probable, which no tokenizer knows (it knows "
                f"{self._num_ids}); use teacher.engine=vllm, which leaves such padding out, or a smaller teacher.top_k"
            )
        return TopKTargets(found.token_ids, _finite(found.log_probs))


class SampledScoring:
    """The `sampled` transport."""

    num_candidates = 0

    def targets(self, found: PromptLogProbs) -> SampledTargets:
        _check(found)
        return SampledTargets(_finite(found.chosen))


def check_top_k(top_k: int, num_ids: int, teacher: str = "teacher") -> None:
    """Raise ConfigError, in the section `teacher`, when there are not `top_k` ids to choose from."""
    if top_k > num_ids:
        problem = f"{top_k} is more than the {num_ids} ids of the vocabulary; lower it to at most {num_ids}"
        raise ConfigError([f"{teacher}.top_k: {problem}"])


def _check(found: PromptLogProbs) -> None:
    with np.errstate(over="ignore"):
        most = float(np.exp(found.chosen).max(initial=0.0))
        together = float(np.exp(found.log_probs).sum(axis=1).max(initial=0.0))
    for probability in (most, together):
        if not probability <= 1 + _ROUNDING:  # also true of NaN
            raise EngineError(
                f"the teacher's engine gave ids a probability of {probability:.4g}, so these are no log-probs; "
                "run it with logprobs_mode=raw_logprobs (the default)"
            )


def _finite(log_probs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Finite, and at most 0: rounding may lift a certain token's by 1e-7."""
    return np.clip(log_probs, _LEAST_LOG_PROB, 0.0)
