"""One step of the ring on a given split of the devices (floor F2).

    synchronous    step = sampling + scoring + wire + learning + publishing + controller
    asynchronous   step = max(samplers + load, teachers, wire + learner + gather + its calls in line,
                              release + spread + load, latency / (max_staleness + 1))

Latency is the synchronous sum: a sequence passes all stations one after the other, and at most max_staleness + 1
batches are under way, so a step cannot be shorter than the latency over that number. The learner draws a batch before
it is brought to it; its calls wait behind the controller's other work (`controller.step_in_line`), and the controller
is the bottleneck of that where it has more to do than the learner has besides. One version is on its way at a time,
whose orders wait behind the requests that the one before has released (pipeline/learning.py, pipeline/publishing.py).
A load that falls into the sampling of another batch makes that one later; whether it does is a matter of phases, and
not counted. Where roles share one device they take turns, and the step is the sum of what they occupy it for. Where
the coin of Algorithm 1 decides, sampling is that of a whole batch in the share of the steps that it falls on.
"""

from dataclasses import dataclass, replace

from gkd_dist.planning.controller import Traffic, learner_calls, row_traffic, step_in_line
from gkd_dist.planning.devices import Device
from gkd_dist.planning.learning import Learning, learning_time
from gkd_dist.planning.publishing import ONE_DEVICE, Publishing, Receivers, publishing_time
from gkd_dist.planning.sampling import Sampling, sampling_time
from gkd_dist.planning.scoring import scoring_time
from gkd_dist.planning.wire import Wire, learner_bytes_in, wire_bytes
from gkd_dist.planning.workload import Workload


@dataclass(frozen=True, slots=True)
class Split:
    """How many replicas of each role."""

    samplers: int
    teachers: int
    """Of each teacher; 0 where nobody is asked."""
    ranks: int
    """Of the learner."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Devices of one replica."""

    sampler: int
    teachers: tuple[int, ...]
    """Of each teacher; 0 of one behind a server."""

    def devices(self, split: Split) -> tuple[int, int, int]:
        """Of samplers, teachers and learner."""
        return split.samplers * self.sampler, split.teachers * sum(self.teachers), split.ranks

    def total(self, split: Split) -> int:
        return sum(self.devices(split))


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds of one step, by part; sampling is that of a step in which the student writes."""

    sampling: Sampling
    scoring_s: float
    learning: Learning
    publishing: Publishing
    wire_s: float
    """Of what comes into the learner."""
    traffic: Traffic
    controller_s: float
    """Of its processor; of a `Prediction` with probes."""
    receivers: Receivers


@dataclass(frozen=True, slots=True)
class Step:
    """A mean step."""

    seconds: float
    bottleneck: str
    """What decides them."""
    probes_s: float
    """Of the controller."""
    staleness_s: float
    """That the bound on staleness alone allows; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is to be expected of one split."""

    split: Split
    groups: Groups
    shared: bool
    """All roles on one device, in turns."""
    parts: Parts
    wire: Wire
    step_s: float
    """Mean over the run."""
    bottleneck: str
    reason: str
    """Of the bottleneck."""
    busy: dict[str, float]
    """Seconds of a mean step that each role works, weights and bytes are on their way, and the controller calculates:
    synchronous, their sum is the step."""
    staleness_s: float
    """Shortest step that the bound on staleness allows; 0 where there is none."""
    tokens: dict[str, float]
    """Of a mean step, by role: sampled, read by teachers, trained."""
    run_s: float
    """All train steps; start and evaluation are not in it."""

    @property
    def devices(self) -> int:
        return 1 if self.shared else self.groups.total(self.split)


def parts_of(work: Workload, device: Device, split: Split, groups: Groups, *, shared: bool) -> Parts:
    """Each part on its own."""
    scoring = [
        scoring_time(work, load, device, split.teachers, max(1, group))
        for load, group in zip(work.teachers, groups.teachers, strict=True)
        if load.engine != "server"
    ]
    return parts_with(
        work,
        device,
        split,
        groups,
        sampling=sampling_time(work, device, split.samplers, groups.sampler),
        scoring_s=max(scoring, default=0.0) if not shared else sum(scoring),
        learning=learning_time(work, device, split.ranks),
        shared=shared,
    )


def parts_with(
    work: Workload,
    device: Device,
    split: Split,
    groups: Groups,
    *,
    sampling: Sampling,
    scoring_s: float,
    learning: Learning,
    shared: bool = False,
) -> Parts:
    """Of roles whose times are known, with what is between them."""
    devices = 1 if shared else groups.total(split)
    receivers = ONE_DEVICE if shared else Receivers.of(device, split.samplers * groups.sampler, split.ranks)
    traffic = traffic_of(work, split)
    return Parts(
        sampling=sampling,
        scoring_s=scoring_s,
        learning=learning,
        publishing=publishing_time(work, device, receivers),
        wire_s=learner_bytes_in(work) / (split.ranks * device.links_between(devices)),
        traffic=traffic,
        controller_s=traffic.seconds(work.driver),
        receivers=receivers,
    )


def traffic_of(work: Workload, split: Split) -> Traffic:
    """Calls of a mean step; synchronous, each replica is asked once for its share."""
    student = work.batch_size * work.student_fraction
    orders = work.publications * split.samplers
    rows = row_traffic(
        student,
        work.batch_size - student,
        num_generations=work.num_generations,
        teachers=work.readers,
        orders=orders,
        ranks=split.ranks,
    )
    if work.max_staleness:
        return rows
    return Traffic(
        sampled=work.student_steps * min(split.samplers, work.student_sequences),
        scored=sum(min(split.teachers, work.batch_size * load.share) for load in work.teachers),
        written=rows.written,
        read=rows.read,
        orders=orders,
        learner=learner_calls(split.ranks),
    )


def step_of(work: Workload, split: Split, parts: Parts, *, shared: bool) -> Step:
    """Of these parts, whose controller has no probes yet."""
    own, publishing = work.student_steps, parts.publishing
    learner_s = parts.wire_s + parts.learning.seconds + publishing.gather_s
    if work.max_staleness == 0 or shared:
        writing = parts.sampling.latency_s if work.max_staleness == 0 else parts.sampling.seconds
        terms = {
            "sampling": own * writing,
            "scoring": parts.scoring_s,
            "learning": parts.learning.seconds,
            "publishing": work.publications * publishing.seconds,
            "wire": parts.wire_s,
            "controller": parts.controller_s,
        }
        return Step(sum(terms.values()), max(terms, key=lambda name: terms[name]), 0.0, 0.0)
    calls_s = parts.traffic.learner_s(work.driver)

    def in_line(probes_s: float) -> float:
        return step_in_line(learner_s, calls_s, parts.controller_s - calls_s + probes_s)

    latency = own * parts.sampling.latency_s + parts.scoring_s + learner_s + publishing.deliver_s + parts.controller_s
    terms = {
        "sampling": own * parts.sampling.seconds + publishing.load_s,
        "scoring": parts.scoring_s,
        "learning": in_line(0.0),
        "publishing": publishing.deliver_s + parts.traffic.release_s(work.driver),
        "staleness": latency / (work.max_staleness + 1),
    }
    probes_s = parts.traffic.probes_s(
        work.driver,
        samplers=split.samplers,
        teachers=split.teachers * len(work.teachers),
        step_s=max(terms.values()),
        interval_s=work.probe_interval_s,
    )
    terms["learning"] = in_line(probes_s)
    bottleneck = max(terms, key=lambda name: terms[name])
    seconds = terms[bottleneck]
    if bottleneck == "learning" and parts.controller_s + probes_s > learner_s:
        bottleneck = "controller"
    shares = {
        "sampling": {"publishing": publishing.load_s},
        "learning": {"publishing": publishing.gather_s, "wire": parts.wire_s},
    }
    mostly = (name for name, part_s in shares.get(bottleneck, {}).items() if 2 * part_s > seconds)
    return Step(seconds, next(mostly, bottleneck), probes_s, terms["staleness"])


def predict(work: Workload, device: Device, split: Split, groups: Groups, *, shared: bool = False) -> Prediction:
    """A mean step on this split.

    Args:
        shared: all roles on one device, whatever the split says of devices.
    """
    parts = parts_of(work, device, split, groups, shared=shared)
    step = step_of(work, split, parts, shared=shared)
    parts = replace(parts, controller_s=parts.controller_s + step.probes_s)
    own = work.student_steps
    return Prediction(
        split=split,
        groups=groups,
        shared=shared,
        parts=parts,
        wire=wire_bytes(work, parts.receivers.nodes),
        step_s=step.seconds,
        bottleneck=step.bottleneck,
        reason=_reason(work, parts, step.bottleneck),
        busy={
            "samplers": own * parts.sampling.seconds,
            "teachers": parts.scoring_s,
            "learner": parts.learning.seconds,
            "weights": work.publications * parts.publishing.seconds,
            "wire": parts.wire_s,
            "controller": parts.controller_s,
        },
        staleness_s=step.staleness_s,
        tokens={
            "samplers": work.student_fraction * work.batch_size * work.lengths.completion,
            "teachers": work.read_tokens * work.readers,
            "learner": work.trained_tokens,
        },
        run_s=work.num_steps * step.seconds,
    )


def _reason(work: Workload, parts: Parts, bottleneck: str) -> str:
    reasons = {
        "sampling": f"limited by {parts.sampling.bound}, {parts.sampling.concurrent:.0f} sequences at once",
        "scoring": "the teachers' forward",
        "learning": f"mostly {parts.learning.bound}",
        "publishing": f"weights to {parts.receivers.nodes} node(s) with samplers",
        "wire": "bytes into the learner",
        "controller": f"{parts.controller_s / work.batch_size * 1e3:.2g} ms per sequence in one process",
        "staleness": f"only {work.max_staleness + 1} batches may be under way; raise replay.max_staleness",
    }
    return reasons[bottleneck]
