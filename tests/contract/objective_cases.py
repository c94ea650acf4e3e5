"""One batch of random trajectories, with what each transport says about them, for the objective's conformance suite."""

from collections.abc import Callable
from dataclasses import dataclass

import divergence_reference as reference
import numpy as np
import torch

from gkd_dist.divergences import ChunkedResult, Readout, chunked_loss, make_divergence
from gkd_dist.learners.objective import Distillation, MicroBatch, Objective
from gkd_dist.learners.sequence import SequenceReverseKl
from gkd_dist.learners.targets import TargetRules, TeacherView
from gkd_dist.targets import FullTargets, HiddenTargets, SampledTargets, TeacherTargets, TopKTargets
from gkd_dist.types import FinishReason, SampleId, ScoredTrajectory, Source, TeacherScore, Trajectory, VersionRange

NUMBER = 0.25
"""beta of jsd and skew of the skewed divergences."""


def scored(
    completion: np.ndarray, targets: TeacherTargets, *, behaviour: np.ndarray | None = None, fixed: bool = False
) -> ScoredTrajectory:
    """A trajectory of the student (or of the data) with the targets of `teacher`."""
    log_probs = np.zeros(len(completion), np.float32) if behaviour is None else behaviour.astype(np.float32)
    trajectory = Trajectory(
        sample_id=SampleId("test", 0),
        prompt_ids=np.array([1], np.int32),
        completion_ids=np.asarray(completion, np.int32),
        source=Source.GROUND_TRUTH if fixed else Source.STUDENT,
        finish_reason=FinishReason.LENGTH,
        behaviour_log_probs=None if fixed else log_probs,
        versions=None if fixed else VersionRange(0, 0),
    )
    return ScoredTrajectory(trajectory, (TeacherScore("teacher", targets),))


@dataclass
class Tokens:
    """A student and a teacher over V ids, each by hidden states and a head in float32, at N tokens."""

    hidden: np.ndarray
    head: np.ndarray
    teacher_hidden: np.ndarray
    teacher_head: np.ndarray
    ids: np.ndarray
    lengths: list[int]

    @property
    def q(self) -> np.ndarray:
        return reference.softmax(self.hidden.astype(np.float64) @ self.head.astype(np.float64).T)

    @property
    def p(self) -> np.ndarray:
        return reference.softmax(self.teacher_hidden.astype(np.float64) @ self.teacher_head.astype(np.float64).T)

    def sets(self, k: int) -> np.ndarray:
        """[N, k] the teacher's most probable ids."""
        return np.argsort(-self.p, axis=1, kind="stable")[:, :k]

    def targets(self, transport: str, k: int) -> list[TeacherTargets]:
        """What goes over the wire, for each trajectory."""
        log_p = np.log(self.p).astype(np.float32)
        sets = self.sets(k)
        make: dict[str, Callable[[slice], TeacherTargets]] = {
            "hidden": lambda rows: HiddenTargets(self.teacher_hidden[rows]),
            "full": lambda rows: FullTargets(log_p[rows]),
            "topk": lambda rows: TopKTargets(
                sets[rows].astype(np.int32), np.take_along_axis(log_p, sets, axis=1)[rows]
            ),
            "sampled": lambda rows: SampledTargets(log_p[np.arange(len(self.ids)), self.ids][rows]),
        }
        ends = np.cumsum(self.lengths)
        return [make[transport](slice(end - length, end)) for end, length in zip(ends, self.lengths, strict=True)]

    def scored(self, transport: str, k: int = 3) -> list[ScoredTrajectory]:
        ids = np.split(self.ids, np.cumsum(self.lengths)[:-1])
        return [scored(*pair) for pair in zip(ids, self.targets(transport, k), strict=True)]

    def view(self, transport: str) -> TeacherView:
        return TeacherView(Readout(torch.from_numpy(self.teacher_head)) if transport == "hidden" else None, 1.0)

    def objective(self, kind: str, transport: str, **rules: object) -> Objective:
        teachers, read = {"teacher": self.view(transport)}, TargetRules(self.head.shape[0], **rules)
        if kind == "sequence_reverse_kl":
            return SequenceReverseKl(teachers, read, length_normalized=False)
        return Distillation(make_divergence(kind, beta=NUMBER, skew=NUMBER), teachers, read)

    def loss(
        self, objective: Objective, items: list[ScoredTrajectory], weights: np.ndarray
    ) -> tuple[ChunkedResult, np.ndarray, np.ndarray]:
        """(result, d hidden [N, H], d head [V, H]) as the learner computes them, in chunks of 4 tokens."""
        hidden, head = torch.from_numpy(self.hidden).requires_grad_(), torch.from_numpy(self.head).requires_grad_()
        hidden.grad = head.grad = None
        readout = Readout(head)
        batch = MicroBatch(items, hidden.detach(), readout, torch.from_numpy(weights).float(), len(items), None)
        result = chunked_loss(hidden, readout, objective.terms(batch), chunk_tokens=4)
        result.loss.backward()
        return result, hidden.grad.numpy(), head.grad.numpy()


def random_tokens(seed: int, lengths: tuple[int, ...] = (5, 1, 3), num_ids: int = 9) -> Tokens:
    rng = np.random.default_rng(seed)
    tokens = sum(lengths)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    ids = rng.integers(0, num_ids, tokens)
    return Tokens(draw(tokens, 4), draw(num_ids, 4), draw(tokens, 5), draw(num_ids, 5), ids, list(lengths))
