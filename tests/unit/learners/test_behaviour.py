"""The learner's log-probs of sampled tokens against the sampler's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gkd_dist.divergences import Readout
from gkd_dist.learners.behaviour import behaviour_gaps
from gkd_dist.targets import SampledTargets
from gkd_dist.types import ScoredTrajectory, VersionRange
from tests import tiny

READOUT = Readout(torch.randn(tiny.VOCABULARY, 8, generator=torch.Generator().manual_seed(2)), num_ids=100)


def sampled(shapes: list[tuple[int, int]], *, temperature: float = 0.7, version: int = 3):
    """Trajectories whose behaviour log-probs are exactly the learner's, and the hidden states [N, H]."""
    trajectories = [
        replace(each, completion_ids=each.completion_ids % 100) for each in tiny.trajectories(shapes, seed=4)
    ]
    hidden = torch.randn(sum(length for _, length in shapes), 8, generator=torch.Generator().manual_seed(5))
    log_probs = torch.log_softmax(READOUT.logits(hidden).double() / temperature, -1)
    ids = torch.from_numpy(np.concatenate([each.completion_ids for each in trajectories])).long()
    own = log_probs.gather(1, ids[:, None])[:, 0].float().split([length for _, length in shapes])
    trajectories = [
        replace(each, behaviour_log_probs=values.numpy(), versions=VersionRange(version, version))
        for each, values in zip(trajectories, own, strict=True)
    ]
    targets = [SampledTargets(np.zeros(length, np.float32)) for _, length in shapes]
    return tiny.scored(trajectories, targets), hidden


def shifted(item: ScoredTrajectory, shift: np.ndarray) -> ScoredTrajectory:
    moved = (item.trajectory.behaviour_log_probs + shift).astype(np.float32)
    return replace(item, trajectory=replace(item.trajectory, behaviour_log_probs=moved))


def gaps(scored, hidden, *, version: int = 3, temperature: float = 0.7, tokens_each: int = 99) -> list[float]:
    return behaviour_gaps(scored, hidden, READOUT, version=version, temperature=temperature, tokens_each=tokens_each)


def test_the_same_policy_has_no_gap() -> None:
    """To 1e-5: float32 against float64."""
    found = gaps(*sampled([(3, 4), (2, 5)]))
    assert len(found) == 9
    assert max(found) < 1e-5


def test_differences_whatever_their_sign() -> None:
    scored, hidden = sampled([(3, 2), (2, 3)])
    scored[1] = shifted(scored[1], np.array([0.0, -0.3, 0.2]))
    assert gaps(scored, hidden) == pytest.approx([0, 0, 0, 0.3, 0.2], abs=1e-5)


def test_log_probs_of_another_temperature_are_seen() -> None:
    assert np.mean(gaps(*sampled([(3, 8)]), temperature=1.0)) > 0.1


def test_only_tokens_of_this_version_are_compared() -> None:
    """A stale trajectory and one that weights changed under may differ, and rows still find their tokens."""
    scored, hidden = sampled([(3, 2), (1, 4), (2, 3)])
    scored[0] = shifted(scored[0], np.array([5.0, 5.0]))
    for versions in (VersionRange(2, 2), VersionRange(2, 3)):
        scored[0] = replace(scored[0], trajectory=replace(scored[0].trajectory, versions=versions))
        assert max(gaps(scored, hidden)) < 1e-5
    assert gaps(scored, hidden, version=9) == []


def test_every_trajectory_is_looked_at_with_its_first_tokens() -> None:
    scored, hidden = sampled([(2, 8), (2, 5)])
    scored[1] = shifted(scored[1], np.array([0, 0.5, 9, 9, 9.0]))
    assert gaps(scored, hidden, tokens_each=2) == pytest.approx([0, 0, 0, 0.5], abs=1e-5)
