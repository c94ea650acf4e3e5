"""What the pools of a role say to the metrics: replicas by state, weights that they hold, requests and failures."""

import math
from collections import Counter
from collections.abc import Collection, Mapping

from gkd_dist.config.supervision import SLOTS_SHOWN
from gkd_dist.errors import RejectedError, WireError
from gkd_dist.interfaces import Metrics
from gkd_dist.supervision.failures import ReplicaEndedError
from gkd_dist.supervision.health import State

_SAMPLER = "sampler"
"""The role whose obligations are weights."""
_WITHOUT_WEIGHTS = frozenset({State.DEAD, State.RESTARTING, State.RETIRED})


class Census:
    """Counts for every pool that reports here. Several teachers are one role, so their pools share a census.

    Args:
        metrics: None counts for nobody.
    """

    def __init__(self, metrics: Metrics | None) -> None:
        self.metrics = metrics
        self._pools: dict[str, tuple[Mapping[int, State], int]] = {}
        self._versions: dict[int, float] = {}
        """Of the samplers' weights, by slot; NaN where none runs any more."""
        self._rest: Counter[float] = Counter()
        """How many slots hold each version, of those that are not shown one by one; without NaN."""

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
        if label == _SAMPLER:
            for slot in self._versions.keys() | states.keys():
                self._note(slot, self._held(slot, states.get(slot, State.DEAD)))
            self._show_versions(self._versions)

    def fulfilled(self, role: str, slot: int, answer: object) -> None:
        """A replica has done the newest obligation; samplers answer with the policy version that they hold now."""
        if label_of(role) == _SAMPLER and isinstance(answer, int):
            self._note(slot, answer)
            self._show_versions([slot])

    def failed(self, role: str, error: Exception) -> None:
        """A replica did not do the newest obligation."""
        if self.metrics is not None and label_of(role) == _SAMPLER and not isinstance(error, ReplicaEndedError):
            self.metrics.count("gkd_weight_sync_failures_total")

    def refused(self, role: str, error: Exception) -> None:
        """A request ended with `error`; counts where that means that the answer was not accepted."""
        if isinstance(error, WireError):
            self.count("gkd_messages_rejected_total", role, reason="frame")
        elif isinstance(error, RejectedError):
            self.count("gkd_messages_rejected_total", role, reason="answer")

    def count(self, name: str, role: str, **labels: str) -> None:
        """One more of a counter that has the label `role`."""
        if self.metrics is not None:
            self.metrics.count(name, 1.0, role=label_of(role), **labels)

    def _note(self, slot: int, version: float) -> None:
        """What a slot holds now."""
        former = self._versions.get(slot, math.nan)
        self._versions[slot] = version
        if slot < SLOTS_SHOWN or former == version:
            return
        if not math.isnan(version):
            self._rest[version] += 1
        if not math.isnan(former):
            self._rest[former] -= 1
            if not self._rest[former]:
                del self._rest[former]

    def _held(self, slot: int, state: State) -> float:
        if state in _WITHOUT_WEIGHTS:
            return math.nan
        known = self._versions.get(slot, math.nan)
        # A replica that serves and was never given weights has those that it was built with.
        return 0.0 if math.isnan(known) and state is not State.STALE else known

    def _show_versions(self, slots: Collection[int]) -> None:
        """Of these slots; those that are not shown one by one share the oldest of them all."""
        if self.metrics is None:
            return
        shown = {str(slot): self._versions[slot] for slot in slots if slot < SLOTS_SHOWN}
        if any(slot >= SLOTS_SHOWN for slot in slots):
            shown["rest"] = min(self._rest, default=math.nan)
        for label, version in shown.items():
            self.metrics.gauge("gkd_replica_weight_version", version, role=_SAMPLER, slot=label)


def label_of(role: str) -> str:
    """`teacher` for `teacher NAME`: label values are bounded."""
    return role.partition(" ")[0]
