"""Fleets of fixed parts, which nobody restarts or probes."""

from collections.abc import Mapping, Sequence

from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Learner, Reward, Sampler, Teacher
from gkd_dist.supervision.pool import Pool


def fleet_of(
    samplers: Sequence[Sampler],
    teachers: Mapping[str, Sequence[Teacher]],
    learner: Learner,
    reward: Reward | None = None,
) -> Fleet:
    """A fleet of these parts."""
    pools = {name: Pool.of(replicas) for name, replicas in teachers.items()}
    return Fleet(Pool.of(samplers), pools, learner, None if reward is None else Pool.of([reward]))
