"""Replicas by role and state as gauges, over all pools of a role."""

from collections import Counter
from collections.abc import Mapping

from gkd_dist.interfaces import Metrics
from gkd_dist.supervision.health import State


class Census:
    """Counts replicas of every pool that reports here. Several teachers are one role, so their pools share a census.

    Args:
        metrics: None counts for nobody.
    """

    def __init__(self, metrics: Metrics | None) -> None:
        self.metrics = metrics
        self._pools: dict[str, tuple[Mapping[int, State], int]] = {}

    def report(self, role: str, states: Mapping[int, State], target: int) -> None:
        """What the pool of `role` (such as `sampler`, `teacher` or `teacher NAME`) has now."""
        self._pools[role] = (states, target)
        if self.metrics is None:
            return
        label = label_of(role)
        pools = [pool for name, pool in self._pools.items() if label_of(name) == label]
        counts = Counter(state for states, _ in pools for state in states.values())
        for state in State:
            self.metrics.gauge("gkd_replicas", counts[state], role=label, state=state.value)
        self.metrics.gauge("gkd_replicas_target", sum(target for _, target in pools), role=label)

    def count(self, name: str, role: str, **labels: str) -> None:
        """One more of a counter that has the label `role`."""
        if self.metrics is not None:
            self.metrics.count(name, 1.0, role=label_of(role), **labels)


def label_of(role: str) -> str:
    """`teacher` for `teacher NAME`: label values are bounded."""
    return role.partition(" ")[0]
