"""The long part of the sequence-level reverse KL: returns, weights, and which tokens get it."""

import numpy as np
import pytest
import torch

from gkd_dist.divergences import LikelihoodTerm, Readout
from gkd_dist.learners.objective import MicroBatch
from gkd_dist.learners.sequence import SequenceReverseKl, remaining
from gkd_dist.learners.targets import TargetRules, TeacherView
from gkd_dist.targets import FullTargets, SampledTargets
from gkd_dist.types import FinishReason, SampleId, ScoredTrajectory, Source, TeacherScore, Trajectory, VersionRange

LENGTHS = (4, 1, 3)
IDS = 6


def test_what_remains_is_the_sum_or_the_mean_of_what_follows():
    ratios = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])
    assert remaining(ratios, LENGTHS, mean=False).tolist() == [14, 12, 8, 0, 0, 192, 128, 0]
    assert remaining(ratios, LENGTHS, mean=True).tolist() == pytest.approx([14 / 3, 6, 8, 0, 0, 96, 128, 0])


class Case:
    """Three trajectories, the last one fixed if asked; a student by hidden states, a teacher by its log-probs."""

    def __init__(self, *, fixed=False):
        rng = np.random.default_rng(0)
        self.log_p = torch.log_softmax(torch.from_numpy(rng.normal(size=(sum(LENGTHS), IDS))), 1).float()
        self.hidden, self.head = (
            torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for shape in ((sum(LENGTHS), 3), (IDS, 3))
        )
        self.ids = rng.integers(0, IDS, sum(LENGTHS)).astype(np.int32)
        self.behaviour = rng.normal(-1.5, 0.5, sum(LENGTHS)).astype(np.float32)
        self.weights = torch.linspace(0.1, 0.8, sum(LENGTHS))
        self.fixed = fixed

    @property
    def log_ratio(self):
        return (self.log_p - torch.log_softmax(self.hidden @ self.head.T, 1))[range(sum(LENGTHS)), self.ids]

    def long_part(self, *, sampled=False, length_normalized=True, **rules):
        objective = SequenceReverseKl({"teacher": TeacherView(None, 1.0)}, TargetRules(IDS, **rules), length_normalized)
        ends = np.cumsum(LENGTHS)
        items = [
            self._scored(slice(end - length, end), sampled, self.fixed and length == LENGTHS[-1])
            for end, length in zip(ends, LENGTHS, strict=True)
        ]
        batch = MicroBatch(items, self.hidden, Readout(self.head), self.weights, 3, None)
        _, long = objective.terms(batch)
        assert isinstance(long, LikelihoodTerm)
        assert long.ids.tolist() == self.ids.tolist()
        return long.weights

    def _scored(self, rows, sampled, fixed):
        log_p = self.log_p.numpy()[rows]
        trajectory = Trajectory(
            SampleId("test", 0), np.array([1], np.int32), self.ids[rows],
            Source.GROUND_TRUTH if fixed else Source.STUDENT, FinishReason.LENGTH,
            behaviour_log_probs=None if fixed else self.behaviour[rows], versions=None if fixed else VersionRange(0, 0),
        )  # fmt: skip
        of_tokens = log_p[np.arange(len(log_p)), self.ids[rows]]
        targets = SampledTargets(of_tokens) if sampled else FullTargets(log_p)
        return ScoredTrajectory(trajectory, (TeacherScore("teacher", targets),))


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_a_token_is_weighed_by_the_returns_after_it(sampled, normalized):
    case = Case()
    expected = case.weights * remaining(case.log_ratio, LENGTHS, mean=normalized)
    torch.testing.assert_close(case.long_part(sampled=sampled, length_normalized=normalized), expected)


def test_tokens_of_another_policy_are_weighed_by_the_capped_ratio():
    case = Case()
    log_q = torch.log_softmax(case.hidden @ case.head.T, 1)[range(sum(LENGTHS)), case.ids]
    ratio = (log_q - torch.from_numpy(case.behaviour)).exp()
    assert ratio.max() > 1.2 > ratio.min()
    torch.testing.assert_close(
        case.long_part(off_policy=True, max_importance=1.2), case.long_part() * ratio.clamp(max=1.2)
    )


def test_fixed_completions_have_no_long_part():
    case, own = Case(fixed=True), Case().long_part()
    found = case.long_part()
    torch.testing.assert_close(found[:5], own[:5])
    assert (found[5:] == 0).all() and (own[5:-1] != 0).all()
