"""What serving engines say about tokens they were given, and how it becomes teacher targets. One class per transport.

An engine that is asked for K candidates answers, for each token of its prompt, with the K most probable ids and with
the token itself, whether or not that is among them.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gkd_dist.errors import ConfigError, EngineError
from gkd_dist.targets import LEAST_LOG_PROB, SampledTargets, TeacherTargets, TopKTargets

_ROUNDING = 1e-3
"""By how much a sum of probabilities may miss 1."""
_NO_LOG_PROBS = "so these are no log-probs; run it with logprobs_mode=raw_logprobs (the default)"


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

    @property
    def hides_padding(self) -> bool:
        """Whether nobody can leave out what padded ids hold, once the targets are made."""
        ...

    def targets(self, found: PromptLogProbs) -> TeacherTargets:
        """Raises EngineError where `found` cannot be log-probs."""
        ...


class TopKScoring:
    """The `topk` transport.

    Padded ids among the K are passed on: the learner cuts them, and normalises the rest again.

    Args:
        top_k: K.
        num_ids: real ids that teacher and student share.

    Raises:
        ConfigError: K is more than there are ids.
    """

    hides_padding = False

    def __init__(self, top_k: int, num_ids: int) -> None:
        check_top_k(top_k, num_ids)
        self.num_candidates = top_k

    def targets(self, found: PromptLogProbs) -> TopKTargets:
        _check(found)
        return TopKTargets(found.token_ids, _finite(found.log_probs))


class SampledScoring:
    """The `sampled` transport."""

    num_candidates = 0
    hides_padding = True

    def targets(self, found: PromptLogProbs) -> SampledTargets:
        _check(found)
        return SampledTargets(_finite(found.chosen))


def check_top_k(top_k: int, num_ids: int, teacher: str = "teacher") -> None:
    """Raise ConfigError, in the section `teacher`, when there are not `top_k` ids to choose from."""
    if top_k > num_ids:
        problem = f"{top_k} is more than the {num_ids} ids of the vocabulary; lower it to at most {num_ids}"
        raise ConfigError([f"{teacher}.top_k: {problem}"])


def check_mass(found: PromptLogProbs, num_rows: int) -> None:
    """Raise EngineError where the K >= 1 candidates of some token cannot be the most probable of `num_rows` ids.

    None of the others is more probable than the last candidate, so that all together bound 1 from above. Logits that
    are all far below 0 pass every other check.
    """
    probabilities = np.exp(found.log_probs.astype(np.float64))
    most = probabilities.sum(1) + (num_rows - found.log_probs.shape[1]) * probabilities.min(1)
    if not most.min() >= 1 - _ROUNDING:  # also true of NaN
        raise EngineError(
            f"the teacher's engine gave all {num_rows} ids of a token a probability of at most {most.min():.4g} "
            f"together, {_NO_LOG_PROBS}"
        )


def _check(found: PromptLogProbs) -> None:
    with np.errstate(over="ignore"):
        most = float(np.exp(found.chosen).max(initial=0.0))
        together = float(np.exp(found.log_probs).sum(axis=1).max(initial=0.0))
    for probability in (most, together):
        if not probability <= 1 + _ROUNDING:  # also true of NaN
            raise EngineError(f"the teacher's engine gave ids a probability of {probability:.4g}, {_NO_LOG_PROBS}")


def _finite(log_probs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Finite, and at most 0: rounding may lift a certain token's by 1e-7."""
    return np.clip(log_probs, LEAST_LOG_PROB, 0.0)
