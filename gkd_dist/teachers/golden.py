"""Golden sequences, and how a teacher's answers about them compare with what they should be.

A golden answer is small: for each completion token the ids that were most probable, and their log-probs. N is the
number of completion tokens of all golden sequences together.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gkd_dist.checks import TeacherCheck, Tolerance
from gkd_dist.divergences import Readout
from gkd_dist.targets import FullTargets, HiddenTargets, SampledTargets, TargetsHandle, TeacherTargets, TopKTargets
from gkd_dist.types import FloatArray, IntArray, Trajectory

NUM_TOP = 8
"""Ids compared at each token: enough to see a wrong scale or bias, few enough to leave out improbable ids, whose
log-probs are mostly rounding in bfloat16."""

TOLERANCE = {"float32": Tolerance(1e-3, 1e-4), "bfloat16": Tolerance(0.5, 0.05)}
"""By the teacher's dtype. Measured with SmolLM2-135M on CPU (largest, mean): vLLM's two engines in float32 4e-5, 7e-6
and in bfloat16 0, 0; in bfloat16 one sequence alone and in a batch 0.16, 0.008, vLLM and transformers 0.44, 0.06. A
logit scale that is wrong by 2 % makes 0.29, 0.064."""

Score = Callable[[Sequence[Trajectory]], Awaitable[list[TeacherTargets | TargetsHandle]]]
LogProbs = FullTargets | TopKTargets | SampledTargets

_SAME_NATS = 1e-3
"""A teacher whose most probable token has the same log-prob everywhere, to this, reads nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What an engine says about golden sequences, one after the other."""

    token_ids: IntArray
    """[N, K] int32, the most probable first; with the `sampled` transport K is 1 and they are the completion's own."""
    log_probs: FloatArray
    """[N, K] float32."""

    def __post_init__(self) -> None:
        if self.token_ids.ndim != 2 or self.token_ids.shape != self.log_probs.shape:
            raise ValueError(f"need [N, K] twice, got {self.token_ids.shape} and {self.log_probs.shape}")

    @property
    def fault(self) -> str:
        """What is wrong with them, whatever they should be; empty when nothing is."""
        if not np.isfinite(self.log_probs).all():
            return "some of its log-probs are not finite"
        if self.log_probs.max() > _SAME_NATS:
            return f"it gives a token the log-prob {self.log_probs.max():.3g}, which must not be above 0"
        if len(self.log_probs) > 1 and np.ptp(self.log_probs[:, 0]) < _SAME_NATS:
            return f"it says the same about every token (log-prob {self.log_probs[0, 0]:.3f}), whatever the text"
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """Answers that a teacher has to give again."""

    answers: Answers
    origin: str
    """Whose they are, for messages: `its engine's own log-probs`."""


def top_answers(sequences: Sequence[Trajectory], targets: Sequence[TeacherTargets], readout: Readout | None) -> Answers:
    """The most probable ids of `targets`.

    Args:
        readout: what the learner makes log-probs with; needed for hidden states alone.
    """
    return _joined([_top(_plain(item, readout), each) for each, item in zip(sequences, targets, strict=True)])


async def ask(score: Score, sequences: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
    """What an engine's `score` says about each of `sequences`, asked one by one.

    In a batch a sequence's bfloat16 rounding depends on what shares it; see `TOLERANCE` for how much.
    """
    return [targets for sequence in sequences for targets in await score([sequence])]


def compare(
    golden: Golden,
    sequences: Sequence[Trajectory],
    targets: Sequence[TeacherTargets | TargetsHandle],
    readout: Readout | None,
    tolerance: Tolerance,
) -> TeacherCheck:
    """Hold `targets` against `golden`.

    The most probable token agrees when it is golden's, or one that golden finds as probable, to twice the largest
    difference allowed. Sampled log-probs tell of none.

    Args:
        targets: at the completion tokens of `sequences`, which are golden's.
        readout: needed for hidden states alone.
    """
    expected, start, slack = golden.answers, 0, 2 * tolerance.max_nats
    gaps, agreements, tops = [], [], []
    for sequence, item in zip(sequences, targets, strict=True):
        span = slice(start, start := start + sequence.num_completion_tokens)
        ids, values = expected.token_ids[span], expected.log_probs[span]
        plain = _plain(item, readout)
        tops.append(_top(plain, sequence))
        gaps.append(np.abs(_at(plain, ids, values) - values))
        if not isinstance(plain, SampledTargets):
            agreements.append(_expected_of(tops[-1].token_ids[:, :1], ids, values) >= values[:, 0] - slack)
    gap, top = np.concatenate(gaps), _joined(tops)
    return TeacherCheck(
        compared_with=golden.origin,
        num_tokens=len(gap),
        top1_agreement=float(np.concatenate(agreements).mean()) if agreements else None,
        max_gap_nats=float(gap.max()),
        mean_gap_nats=float(gap.mean()),
        tolerance=tolerance,
        fault=top.fault,
        top_log_probs=tuple(top.log_probs[:, 0].tolist()),
    )


def _joined(parts: Sequence[Answers]) -> Answers:
    return Answers(
        np.concatenate([each.token_ids for each in parts]), np.concatenate([each.log_probs for each in parts])
    )


@torch.no_grad()
def _plain(targets: TeacherTargets | TargetsHandle, readout: Readout | None) -> LogProbs:
    """Hidden states as the log-probs that the learner makes of them; other targets as they are."""
    match targets:
        case FullTargets() | TopKTargets() | SampledTargets():
            return targets
        case HiddenTargets() if readout is not None:
            hidden = torch.from_numpy(targets.hidden.copy())
            hidden = hidden.view(torch.bfloat16) if targets.hidden.dtype == np.uint16 else hidden
            return FullTargets(torch.log_softmax(readout.logits(hidden), dim=-1).numpy())
    raise ValueError(f"cannot make log-probs of {type(targets).__name__} here")


def _top(targets: LogProbs, sequence: Trajectory) -> Answers:
    match targets:
        case TopKTargets():
            return Answers(targets.token_ids[:, :NUM_TOP], targets.log_probs[:, :NUM_TOP])
        case SampledTargets():
            return Answers(sequence.completion_ids[:, None], targets.log_probs[:, None])
        case FullTargets():
            values, ids = torch.from_numpy(targets.log_probs.copy()).topk(min(NUM_TOP, targets.log_probs.shape[1]))
            return Answers(ids.numpy().astype(np.int32), values.numpy())


def _at(targets: LogProbs, token_ids: IntArray, expected: FloatArray) -> FloatArray:
    """[L, K] log-probs of `token_ids`; minus infinity for those beyond the vocabulary."""
    match targets:
        case TopKTargets():
            return _looked_up(targets, token_ids, expected)
        case SampledTargets():
            return targets.log_probs[:, None]
        case FullTargets():
            num_ids = targets.log_probs.shape[1]
            found = np.take_along_axis(targets.log_probs, np.minimum(token_ids, num_ids - 1), axis=1)
            return np.where(token_ids < num_ids, found, np.float32(-np.inf))


def _expected_of(token_ids: IntArray, among: IntArray, values: FloatArray) -> FloatArray:
    """[L] of `token_ids` [L, 1] in golden's K ids; of an id that is not there, golden's last: the most it can have."""
    same = token_ids == among
    return np.where(same.any(1), np.where(same, values, -np.inf).max(1), values[:, -1])


def _looked_up(targets: TopKTargets, token_ids: IntArray, expected: FloatArray) -> FloatArray:
    """[L, K] log-probs of `token_ids`; of an id that is not among the targets' own, the most that it can have."""
    same = token_ids[:, :, None] == targets.token_ids[:, None, :]
    value = np.where(same, targets.log_probs[:, None, :], -np.inf).max(2)
    bound = np.minimum(expected, targets.log_probs.min(1)[:, None])
    return np.where(same.any(2), value, bound)
