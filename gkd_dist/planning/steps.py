"""Steps of very many splits at once, as arrays (floor F2).

The same formulas as `step_of`, which stays what is shown: only the search goes by these, and a test holds them equal.
"""

import math

import numpy as np
import numpy.typing as npt

from gkd_dist.planning.controller import step_in_line
from gkd_dist.planning.devices import Device
from gkd_dist.planning.learning import learning_time
from gkd_dist.planning.prediction import Groups, Split, traffic_of
from gkd_dist.planning.publishing import Publishing, Receivers, publishing_time
from gkd_dist.planning.sampling import sampling_time
from gkd_dist.planning.scoring import scoring_time
from gkd_dist.planning.wire import learner_bytes_in
from gkd_dist.planning.workload import Workload

Array = npt.NDArray[np.float64]


class Steps:
    """Of all pairs of these numbers of samplers and learner ranks, the latter changing faster; arrays are (pairs,)."""

    def __init__(self, work: Workload, device: Device, groups: Groups, samplers: list[int], ranks: list[int]) -> None:
        self._work, self._device, self._groups, driver = work, device, groups, work.driver

        def of_samplers(values: list[float]) -> Array:
            return np.repeat(np.array(values, dtype=np.float64), len(ranks))

        def of_ranks(values: list[float]) -> Array:
            return np.tile(np.array(values, dtype=np.float64), len(samplers))

        self.samplers, self.ranks = of_samplers([*samplers]), of_ranks([*ranks])
        written = [sampling_time(work, device, number, groups.sampler) for number in samplers]
        own = work.student_steps
        self._sampling_s = own * of_samplers([each.seconds for each in written])
        self._writing_s = own * of_samplers([each.latency_s for each in written])
        self._learning_s = of_ranks([learning_time(work, device, number).seconds for number in ranks])
        published = _published(work, device, [number * groups.sampler for number in samplers], ranks)
        self._gather_s, self._load_s = published[0].gather_s, published[0].load_s
        self._deliver_s = np.array([each.deliver_s for each in published])
        # Calls are a sum over the roles: here of the samplers and the ranks, with one teacher.
        traffic = [traffic_of(work, Split(number, 1, 1)) for number in samplers]
        self._release_s = of_samplers([each.release_s(driver) for each in traffic])
        self._sampled = of_samplers([each.sampled for each in traffic])
        self._calls_s = of_ranks([traffic_of(work, Split(1, 1, number)).learner_s(driver) for number in ranks])
        self._controller_s = self._calls_s + of_samplers(
            [each.requests_s(driver) + driver.call_s * each.orders for each in traffic]
        )

    def devices(self, teachers: int) -> Array:
        """With so many replicas of each teacher."""
        return self._groups.sampler * self.samplers + self.ranks + teachers * sum(self._groups.teachers)

    @property
    def floor_s(self) -> Array:
        """No step is shorter, however many teachers there are."""
        if self._work.max_staleness:
            learner_s = self._learning_s + self._gather_s
            found: Array = step_in_line(learner_s, self._calls_s, self._controller_s - self._calls_s)
            found = np.maximum(np.maximum(found, self._sampling_s + self._load_s), self._deliver_s + self._release_s)
            return found
        publishing_s = self._work.publications * (self._gather_s + self._deliver_s)
        return self._writing_s + self._learning_s + self._controller_s + publishing_s

    def with_teachers(self, teachers: int, pairs: npt.NDArray[np.intp]) -> Array:
        """Seconds, (chosen pairs,), with so many replicas of each teacher.

        Args:
            pairs: indices of those that are looked at.
        """
        work, device, driver = self._work, self._device, self._work.driver
        loads = [pair for pair in zip(work.teachers, self._groups.teachers, strict=True) if pair[0].engine != "server"]
        scoring = [scoring_time(work, load, device, teachers, max(1, group)) for load, group in loads]
        scoring_s = max(scoring, default=0.0)
        one_node = self.devices(teachers)[pairs] <= device.num_per_node
        links = np.where(one_node, device.link_bytes_per_s, device.network_bytes_per_s)
        wire_s = learner_bytes_in(work) / (self.ranks[pairs] * links)
        scored = traffic_of(work, Split(1, teachers, 1)).scored
        more_s = driver.call_s * (scored - traffic_of(work, Split(1, 1, 1)).scored)
        controller_s, deliver_s = self._controller_s[pairs] + more_s, self._deliver_s[pairs]
        learner_s = wire_s + self._learning_s[pairs]
        found: Array
        if work.max_staleness == 0:
            publishing_s = work.publications * (self._gather_s + deliver_s)
            found = self._writing_s[pairs] + scoring_s + learner_s + publishing_s + controller_s
            return found
        learner_s += self._gather_s
        latency_s = self._writing_s[pairs] + scoring_s + learner_s + deliver_s + controller_s
        found = np.maximum(self._sampling_s[pairs] + self._load_s, scoring_s)
        calls_s = self._calls_s[pairs]
        for term_s in (
            step_in_line(learner_s, calls_s, controller_s - calls_s),
            deliver_s + self._release_s[pairs],
            latency_s / (work.max_staleness + 1),
        ):
            found = np.maximum(found, term_s)
        if math.isinf(work.probe_interval_s):
            return found
        turns, samplers = found / work.probe_interval_s, self.samplers[pairs]
        probed = samplers * np.exp(-self._sampled[pairs] / samplers / turns)
        if replicas := teachers * len(work.teachers):
            probed += replicas * np.exp(-scored / replicas / turns)
        probes_s = driver.call_s * turns * probed
        found = np.maximum(found, step_in_line(learner_s, calls_s, controller_s - calls_s + probes_s))
        return found


def _published(work: Workload, device: Device, sampler_devices: list[int], ranks: list[int]) -> list[Publishing]:
    # A learner that fills its node leaves no room beside it, however large it is.
    own = [min(number, device.num_per_node) for number in ranks]
    found = []
    for number in sampler_devices:
        times = {each: publishing_time(work, device, Receivers.of(device, number, each)) for each in set(own)}
        found += [times[each] for each in own]
    return found
