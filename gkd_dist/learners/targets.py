"""Teacher targets of several trajectories as one term of the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gkd_dist.divergences import (
    DenseTerm,
    Divergence,
    MixedTeacher,
    MixtureKind,
    Readout,
    ReverseKl,
    SampledTerm,
    Tail,
    TeacherLogits,
    Term,
    TopKTeacher,
    TopKTerm,
    full_teacher,
    hidden_teacher,
    mixed_teacher,
    topk_teacher,
)
from gkd_dist.errors import EngineError
from gkd_dist.targets import FullTargets, HiddenTargets, SampledTargets, TargetsHandle, TeacherTargets, TopKTargets
from gkd_dist.types import ScoredTrajectory, Source


@dataclass(frozen=True)
class TeacherView:
    """What the learner holds of one teacher."""

    readout: Readout | None
    """On the learner's device; None unless its targets are hidden states."""
    temperature: float
    """Of the teacher's softmax in the loss; the student's is 1."""
    weight: float = 1.0
    """In a mixture, relative to the others'."""


@dataclass(frozen=True)
class TargetRules:
    """How targets are read, whoever sent them."""

    num_ids: int
    """Real ids; what lies beyond them is cut, and the rest normalised again."""
    bf16: bool = False
    """Round the inputs of the projection of hidden states to bfloat16."""
    tail: Tail = "bucket"
    """What becomes of the ids outside a teacher's top K."""
    off_policy: bool = False
    """The tokens were drawn from another distribution than the student's: sampled ones get importance weights."""
    max_importance: float = 2.0
    """Cap of those weights, see `divergences.importance_weights`."""
    mixture: MixtureKind | None = None
    """How the teachers that score the same tokens are made one; None where each token has one."""
    memory_bytes: int | None = None
    """For the logits of one chunk; None means the device's default."""

    @property
    def compute_dtype(self) -> torch.dtype:
        """Input precision of that projection."""
        return torch.bfloat16 if self.bf16 else torch.float32


def divergence_term(
    scored: Sequence[ScoredTrajectory],
    divergence: Divergence,
    weights: torch.Tensor,
    teachers: Mapping[str, TeacherView],
    rules: TargetRules,
) -> Term:
    """The divergence from the teachers at the concatenated completion tokens [N], in the order given.

    Args:
        weights: [N] float32, on the learner's device.
        teachers: by name, at least those that scored.

    Raises:
        EngineError: what `targets_by_teacher` refuses, several teachers without a mixture, targets that cannot be
            mixed, no readout for hidden states, or sampled log-probs asked for what they cannot tell (see
            `measurable`).
    """
    device = weights.device
    if rules.mixture is not None:
        return DenseTerm(mixed_logits(scored, teachers, device, rules, rules.mixture), divergence, weights)
    targets, teacher = one_teacher(scored, teachers)
    match targets[0]:
        case TopKTargets():
            return TopKTerm(topk_targets(targets, teacher, device, rules), divergence, weights, rules.tail)
        case SampledTargets():
            if not measurable(scored, divergence):
                raise EngineError(
                    "sampled log-probs give the reverse KL on the student's own completions, not "
                    f"{type(divergence).__name__} or fixed pairs; use another teacher.transport"
                )
            ids, log_probs = completion_ids(scored, device), sampled_log_probs(targets, teacher, device)
            behaviour = behaviour_log_probs(scored, device) if rules.off_policy else None
            return SampledTerm(ids, log_probs, weights, behaviour, rules.max_importance)
    return DenseTerm(teacher_logits(targets, teacher, device, rules), divergence, weights, teacher.temperature)


def measurable(scored: Sequence[ScoredTrajectory], divergence: Divergence) -> bool:
    """Whether the targets can tell this divergence: sampled log-probs know of the reverse KL on the student's own text.

    A mean of log q - log p is the reverse KL where the tokens were drawn from Q, and nothing of use elsewhere.
    """
    sampled = any(isinstance(score.targets, SampledTargets) for item in scored for score in item.scores)
    return not sampled or (
        divergence == ReverseKl() and all(item.trajectory.source is Source.STUDENT for item in scored)
    )


def one_teacher(
    scored: Sequence[ScoredTrajectory], teachers: Mapping[str, TeacherView]
) -> tuple[list[TeacherTargets], TeacherView]:
    """The targets of each trajectory, all of one kind, and the one teacher they are from.

    Raises:
        EngineError: several teachers, or as `targets_by_teacher`.
    """
    by_name = targets_by_teacher(scored, teachers)
    if len(by_name) != 1:
        raise EngineError(f"the scores of one teacher are needed, got those of {', '.join(by_name)}")
    ((name, targets),) = by_name.items()
    return targets, teachers[name]


def targets_by_teacher(
    scored: Sequence[ScoredTrajectory], teachers: Mapping[str, TeacherView]
) -> dict[str, list[TeacherTargets]]:
    """The targets of each trajectory by teacher; every trajectory has the same teachers, each with one kind of targets.

    Raises:
        EngineError: different or unknown teachers, several kinds, or unresolved handles.
    """
    panels = {tuple(score.teacher for score in item.scores) for item in scored}
    if len(panels) != 1 or not set(*panels) <= teachers.keys():
        got = " and ".join(sorted("+".join(names) for names in panels))
        raise EngineError(f"a micro-batch needs the same known teachers everywhere, got {got}")
    columns = zip(*(item.scores for item in scored), strict=True)
    return {scores[0].teacher: _of_one_kind([score.targets for score in scores]) for scores in columns}


def _of_one_kind(targets: Sequence[TeacherTargets | TargetsHandle]) -> list[TeacherTargets]:
    kinds = sorted({type(item).__name__ for item in targets})
    resolved = [item for item in targets if isinstance(item, TeacherTargets)]
    if len(kinds) != 1 or len(resolved) != len(targets):
        raise EngineError(f"a micro-batch needs targets of one kind from a teacher, got {', '.join(kinds)}")
    return resolved


def teacher_logits(
    targets: Sequence[TeacherTargets], teacher: TeacherView, device: torch.device, rules: TargetRules
) -> TeacherLogits:
    """Of hidden states or full log-probs, at temperature 1.

    Raises:
        EngineError: no readout for hidden states, or targets that are neither.
    """
    if all(isinstance(item, HiddenTargets) for item in targets):
        if teacher.readout is None:
            raise EngineError("hidden-state targets need the teacher's readout, and this learner holds none")
        hidden = _tensor(np.concatenate([item.hidden for item in targets])).to(device)
        return hidden_teacher(hidden, teacher.readout, compute_dtype=rules.compute_dtype)
    if all(isinstance(item, FullTargets) for item in targets):
        rows = np.concatenate([item.log_probs[:, : rules.num_ids] for item in targets])
        return full_teacher(torch.from_numpy(rows).to(device))
    raise EngineError(f"{type(targets[0]).__name__} hold no logits over all ids")


def mixed_logits(
    scored: Sequence[ScoredTrajectory],
    teachers: Mapping[str, TeacherView],
    device: torch.device,
    rules: TargetRules,
    kind: MixtureKind,
) -> TeacherLogits:
    """Of all teachers that scored, mixed at their own temperatures: softmax at temperature 1 is the mixture.

    Raises:
        EngineError: as `targets_by_teacher` and `teacher_logits`.
    """
    parts = []
    for name, targets in targets_by_teacher(scored, teachers).items():
        view = teachers[name]
        parts.append(MixedTeacher(teacher_logits(targets, view, device, rules), view.weight, view.temperature))
    return mixed_teacher(parts, kind)


def topk_targets(
    targets: Sequence[TeacherTargets], teacher: TeacherView, device: torch.device, rules: TargetRules
) -> TopKTeacher:
    """Of top-K targets, which must all have one K.

    Raises:
        EngineError: several K, or ids or a temperature that `topk_teacher` refuses.
    """
    try:
        ids = np.concatenate([item.token_ids for item in targets])
        log_probs = np.concatenate([item.log_probs for item in targets])
        return topk_teacher(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(log_probs).to(device),
            num_ids=rules.num_ids,
            temperature=teacher.temperature,
        )
    except ValueError as error:
        raise EngineError(f"top-K targets that cannot be used: {error}") from error


def completion_ids(scored: Sequence[ScoredTrajectory], device: torch.device) -> torch.Tensor:
    """[N] int64, trajectory after trajectory."""
    ids = np.concatenate([item.trajectory.completion_ids for item in scored])
    return torch.from_numpy(ids).to(device, torch.int64)


def behaviour_log_probs(scored: Sequence[ScoredTrajectory], device: torch.device) -> torch.Tensor:
    """[N] float32 of the policy that wrote each token; 0 at the tokens of fixed pairs."""
    rows = [
        np.zeros(item.trajectory.num_completion_tokens, np.float32)
        if item.trajectory.behaviour_log_probs is None
        else item.trajectory.behaviour_log_probs
        for item in scored
    ]
    return torch.from_numpy(np.concatenate(rows)).to(device)


def sampled_log_probs(targets: Sequence[TeacherTargets], teacher: TeacherView, device: torch.device) -> torch.Tensor:
    """[N] float32 of sampled targets.

    Raises:
        EngineError: a temperature other than 1, which one log-prob per token cannot give.
    """
    if teacher.temperature != 1.0:
        raise EngineError(f"sampled log-probs are of temperature 1, the teacher's is {teacher.temperature}")
    return torch.from_numpy(np.concatenate([item.log_probs for item in targets])).to(device)


def _tensor(hidden: np.ndarray) -> torch.Tensor:
    """[N, H] bfloat16 or float32, of the same memory."""
    tensor = torch.from_numpy(hidden)
    return tensor.view(torch.bfloat16) if hidden.dtype == np.uint16 else tensor
