"""What the learner minimises: from scored trajectories to the terms of the loss. One class per algorithm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from gkd_dist.divergences import Divergence, LikelihoodTerm, Readout, Term
from gkd_dist.learners.targets import TargetRules, TeacherView, completion_ids, divergence_term
from gkd_dist.types import ScoredTrajectory


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Some trajectories of a step, with what the student's body made of them. N is their completion tokens."""

    scored: Sequence[ScoredTrajectory]
    hidden: Tensor
    """[N, H] of the student, at the positions that predict the completions, trajectory after trajectory; detached."""
    readout: Readout
    """The student's, cut to the shared ids."""
    weights: Tensor
    """[N] float32 share of each token in the step's divergence, from `divergences.token_weights`."""
    num_sequences: int
    """Of the whole step: global denominator of what counts per sequence."""
    advantages: Tensor | None
    """[B] float32, one per trajectory; None where the step has no rewards."""

    @property
    def lengths(self) -> list[int]:
        """Completion tokens of each trajectory."""
        return [item.trajectory.num_completion_tokens for item in self.scored]


class Objective(Protocol):
    """Turns a micro-batch into summands of the loss; a step's gradient does not depend on how it is split."""

    def terms(self, batch: MicroBatch) -> list[Term]:
        """At least one term; the first is the one whose values are reported as the divergence."""
        ...

    def measuring(self, divergence: Divergence) -> "Objective | None":
        """The same teachers compared by another divergence alone, for evaluation; None where there are none."""
        ...


@dataclass(frozen=True)
class Distillation:
    """GKD: a divergence between teacher and student at every completion token (arXiv 2306.13649, eq. 2)."""

    divergence: Divergence
    teachers: Mapping[str, TeacherView]
    rules: TargetRules

    def terms(self, batch: MicroBatch) -> list[Term]:
        return [divergence_term(batch.scored, self.divergence, batch.weights, self.teachers, self.rules)]

    def measuring(self, divergence: Divergence) -> "Distillation":
        return replace(self, divergence=divergence)


@dataclass(frozen=True)
class Likelihood:
    """Maximum likelihood of fixed completions: SFT, and SeqKD where a teacher wrote them (arXiv 1606.07947)."""

    def terms(self, batch: MicroBatch) -> list[Term]:
        return [LikelihoodTerm(completion_ids(batch.scored, batch.weights.device), batch.weights)]

    def measuring(self, divergence: Divergence) -> None:  # noqa: ARG002 - there is no other distribution
        return None
