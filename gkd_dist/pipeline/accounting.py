"""What each step cost and moved: one record per train step, and the metrics that follow from it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gkd_dist.checks import TeacherCheck
from gkd_dist.interfaces import Metrics, RecordSink
from gkd_dist.metrics.catalogue import STAGES
from gkd_dist.pipeline.time_spent import Roles, TimeSpent
from gkd_dist.runs.events import Tell, nobody
from gkd_dist.targets import CacheUse
from gkd_dist.types import (
    FloatArray,
    SampleId,
    ScoredTrajectory,
    Source,
    StepReport,
    Trajectory,
    WeightManifest,
)

Clock = Callable[[], float]

_HISTOGRAMS = {
    "sample": "gkd_sampler_generation_seconds",
    "score": "gkd_teacher_score_seconds",
    "checkpoint": "gkd_checkpoint_save_seconds",
}
"""Of single requests, by part."""
_COUNTERS = {"wait": "gkd_learner_wait_seconds_total", "blocked": "gkd_sampler_blocked_seconds_total"}
"""Seconds by part, over the whole run."""
_BUSY = {"sample": "sampling", "score": "scoring", "learn": "learning", "publish": "publishing"}
"""Parts that may hold up the ring, as the metrics call them."""
_QUANTITIES = {
    "teacher_mass": "gkd_teacher_mass_ratio",
    "behaviour_gap_mean_nats": "gkd_behaviour_gap_mean_nats",
    "behaviour_gap_max_nats": "gkd_behaviour_gap_max_nats",
}
"""Of a learner's report, where it has them."""
_ANY = "any"
"""At work while any part is, but for those that wait, and the checkpoint that is written beside the rest."""
_BESIDE = frozenset({*_COUNTERS, "checkpoint", _ANY})


class StepAccounts:
    """Collects numbers from all loops, and writes them down as those of a step once its weights are live.

    In asynchronous runs the parts overlap: what a step's record says of sampling and scoring is what happened since the
    record before it.

    Args:
        max_steps: length of the run, for the record.
        attempt: of the run, for the record: where steps are trained again, the last record of a step counts.
        metrics: Prometheus metrics by catalogue name.
        sinks: where the finished record goes.
        tell: told of checkpoints.
        clock: monotonic seconds.
        cpu_clock: seconds that the calling thread has computed.
    """

    def __init__(
        self,
        *,
        max_steps: int,
        metrics: Metrics,
        sinks: Sequence[RecordSink],
        attempt: int = 1,
        tell: Tell = nobody,
        clock: Clock = time.perf_counter,
        cpu_clock: Clock = time.thread_time,
    ) -> None:
        self._max_steps = max_steps
        self._attempt = attempt
        self._metrics = metrics
        self._sinks = sinks
        self._tell = tell
        self._clock = clock
        self._kept_tokens = 0
        """Of sequences whose scores were kept by a teacher, and that `scored` was not told of yet."""
        self._open: dict[str, float] = defaultdict(float)
        self._steps: dict[int, dict[str, float]] = {}
        """What training said about steps whose weights are not live yet."""
        self._totals: dict[str, float] = defaultdict(float)
        self._waiting: dict[SampleId, float] = {}
        """Since when sequences wait in the replay."""
        self._busy: dict[str, tuple[int, float]] = {}
        """Parts at work: how many at once, and since when."""
        self._time_spent = TimeSpent(clock, cpu_clock)
        self.asked = self._time_spent.asked
        self._step_began = clock()
        self._last_progress = clock()
        self.staleness = 0
        """Of the newest step, train steps."""
        self.num_not_kept = 0
        """Scored sequences that did not get into the journal: it was too slow, or failed."""
        self.tokens_per_s: dict[str, float] = {}
        """By role, over the newest step."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the wall time of the block to `{part}_s`; blocks of one part that overlap count once."""
        began = self._at_work(part, 1)
        try:
            yield
        finally:
            ended = self._at_work(part, -1)
            if part in _HISTOGRAMS:
                self._metrics.observe(_HISTOGRAMS[part], ended - began)
            self.progressed()

    def progressed(self) -> None:
        """Something came to an end: the run is not stuck."""
        self._last_progress = self._clock()

    def spent_s(self, part: str) -> float:
        """Wall time of `part` since the run began, that of blocks under way too; overlapping blocks count once."""
        number, since = self._busy.get(part, (0, 0.0))
        return self._totals[part] + (self._clock() - since if number else 0.0)

    def idle_s(self) -> float:
        """Seconds since anything last came to an end."""
        return self._clock() - self._last_progress

    def show(self, stage: str, num_in_flight: int) -> None:
        """What the run does at this moment; time of work that still goes on counts up to now.

        Args:
            num_in_flight: rows given out and not yet in the replay.
        """
        for part in list(self._busy):
            self._at_work(part, 0)
        for each in STAGES:
            self._metrics.gauge("gkd_run_stage", each == stage, stage=each)
        self._metrics.gauge("gkd_inflight_prompts", num_in_flight)

    def _at_work(self, part: str, change: int) -> float:
        now = self._clock()
        number, since = self._busy.get(part, (0, now))
        if number:
            self._open[f"{part}_s"] += now - since
            self._totals[part] += now - since
            if part in _COUNTERS:
                self._metrics.count(_COUNTERS[part], now - since)
            if part in _BUSY:
                self._metrics.count("gkd_busy_seconds_total", now - since, part=_BUSY[part])
        self._busy[part] = (number + change, now)
        if part not in _BESIDE:
            self._at_work(_ANY, change)
        return now

    def sampled(self, trajectories: Sequence[Trajectory]) -> None:
        tokens = sum(trajectory.num_completion_tokens for trajectory in trajectories)
        self._open["sampled_tokens"] += tokens
        self._metrics.count("gkd_sampler_generated_tokens_total", tokens)
        for trajectory in trajectories:
            self._metrics.count("gkd_sampler_completions_total", finish_reason=trajectory.finish_reason.value)

    def scored(self, scored: Sequence[ScoredTrajectory]) -> None:
        """A sequence that several teachers read counts once for each, and not for those that had its score kept."""
        answered = sum(item.trajectory.num_tokens * len(item.scores) for item in scored)
        kept = min(answered, self._kept_tokens)  # where requests overlap, the rest is of the next ones
        self._kept_tokens -= kept
        tokens = answered - kept
        self._open["scored_tokens"] += tokens
        self._metrics.count("gkd_teacher_scored_tokens_total", tokens)
        if tokens:
            self._metrics.observe("gkd_teacher_batch_tokens", sum(item.trajectory.num_tokens for item in scored))

    def remembered(self, use: CacheUse) -> None:
        """What the teachers' caches did; told before `scored` is told of the same sequences."""
        self._kept_tokens += use.hit_tokens
        for result, number, num_bytes in (
            ("hit", use.num_hits, use.hit_bytes),
            ("miss", use.num_misses, use.miss_bytes),
        ):
            if number:
                self._open[f"score_cache_{result}"] += number
                self._metrics.count("gkd_score_cache_pairs_total", number, result=result)
                self._metrics.count("gkd_score_cache_bytes_total", num_bytes, result=result)

    def dropped(self, number: int, reason: str) -> None:
        """Sequences that are given up."""
        self._open["dropped"] += number
        self._metrics.count("gkd_samples_dropped_total", number, reason=reason)

    def checked(self, step: int | None, checks: Sequence[TeacherCheck]) -> None:
        """What the sentinel found at `step`; None is before the first or after the last."""
        gap = max(check.max_gap_nats for check in checks)
        self._metrics.gauge("gkd_teacher_golden_gap_nats", gap)
        self._metrics.count("gkd_teacher_checks_total", len(checks))
        if step is not None:
            self._open["teacher_golden_gap_nats"] = gap

    def queued(self, depth: int) -> None:
        """`depth` scored sequences wait in the replay."""
        self._metrics.gauge("gkd_queue_depth", depth, queue="replay")

    def admitted(self, group: Sequence[ScoredTrajectory]) -> None:
        """They wait in the replay from now on."""
        self._waiting.update((item.trajectory.sample_id, self._clock()) for item in group)

    def drawn(self, scored: Sequence[ScoredTrajectory], depth: int) -> None:
        """The learner took these, some perhaps not for the first time, and so many are left."""
        now = self._clock()
        for item in scored:
            since = self._waiting.pop(item.trajectory.sample_id, None)
            if since is not None:
                self._metrics.observe("gkd_queue_wait_seconds", now - since, queue="replay")
        self.queued(depth)

    def evicted(self, number: int) -> None:
        """Sequences that became too stale in the replay, or before they got there; their prompts are issued again."""
        self._open["evicted"] += number
        self._metrics.count("gkd_samples_dropped_total", number, reason="too_stale")

    def not_kept(self, number: int) -> None:
        """Scored sequences that did not get into the journal: it was too slow, or failed."""
        self.num_not_kept += number
        self._metrics.count("gkd_journal_skipped_total", number)

    def checkpointed(self, step: int | None) -> None:
        """The checkpoint of `step` is on the disk; None: one failed."""
        if step is None:
            self._metrics.count("gkd_checkpoint_failures_total")
            self._tell("checkpoint", state="failed")
            return
        self._tell("checkpoint", state="written", step=step)
        self._metrics.gauge("gkd_checkpoint_last_step", step)
        self._metrics.gauge("gkd_checkpoint_last_success_timestamp_seconds", time.time())

    def trained(self, report: StepReport, drawn: Sequence[ScoredTrajectory], queue_depth: int) -> None:
        record = self._steps.setdefault(report.step, {})
        record["learn_s"] = self._open.pop("learn_s", 0.0)
        if report.seconds:
            record["learn_transport_s"] = max(0.0, record["learn_s"] - sum(report.seconds.values()))
            record.update({f"learn_{part}_s": seconds for part, seconds in report.seconds.items()})
        student = [item.trajectory for item in drawn if item.trajectory.source is Source.STUDENT]
        staleness = [report.step - trajectory.versions.oldest for trajectory in student if trajectory.versions]
        self.staleness = max(staleness, default=0)
        record.update(
            policy_version=report.policy_version,
            loss=report.loss,
            grad_norm=report.grad_norm,
            learning_rate=report.learning_rate,
            student_sequences=len(student),
            fixed_sequences=len(drawn) - len(student),
            trained_tokens=report.num_trained_tokens,
            skipped=report.num_skipped,
            staleness=self.staleness,
            queue_depth=queue_depth,
            **report.quantities,
        )
        self.queued(queue_depth)
        for value in staleness:
            self._metrics.observe("gkd_sample_staleness_versions", value)
        for item in drawn:
            self._metrics.count("gkd_trained_sequences_total", source=item.trajectory.source.value)
        self._learner_metrics(report, record["learn_s"])

    def rewarded(self, step: int, drawn: Sequence[ScoredTrajectory], advantages: FloatArray) -> None:
        """What the student's sequences of `step` earned, if there are any."""
        judged = [index for index, item in enumerate(drawn) if item.reward is not None]
        if not judged:
            return
        mean = sum(drawn[index].reward or 0.0 for index in judged) / len(judged)
        self._steps.setdefault(step, {}).update(reward_mean=mean, advantage_std=float(advantages[judged].std()))
        self._metrics.gauge("gkd_reward_mean", mean)

    def _learner_metrics(self, report: StepReport, seconds: float) -> None:
        self._metrics.count("gkd_learner_steps_total")
        self._metrics.count("gkd_learner_trained_tokens_total", report.num_trained_tokens)
        self._metrics.count("gkd_learner_nonfinite_steps_total", report.num_skipped)
        self._metrics.observe("gkd_learner_step_seconds", seconds)
        self._metrics.gauge("gkd_learner_loss", report.loss)
        self._metrics.gauge("gkd_learner_grad_norm", report.grad_norm)
        self._metrics.gauge("gkd_learner_learning_rate", report.learning_rate)
        for name, metric in _QUANTITIES.items():
            if name in report.quantities:
                self._metrics.gauge(metric, report.quantities[name])
        self._metrics.gauge("gkd_learner_last_step_timestamp_seconds", time.time())

    def published(self, step: int, manifest: WeightManifest | None) -> None:
        """The weights after `step` are live: the step is over; write its record.

        Args:
            manifest: None where nobody samples with these weights, and they stayed where they are.
        """
        now = self._at_work(_ANY, 0)
        record = defaultdict(float, {**self._open, **self._steps.pop(step)})
        self._open.clear()
        self.progressed()
        record["step_s"] = now - self._step_began
        record["between_s"] = max(0.0, record["step_s"] - record.pop(f"{_ANY}_s", 0.0))
        record.update(self._time_spent.fields(record))
        self._step_began = now
        if manifest is not None:
            self._metrics.observe("gkd_weight_sync_seconds", record["publish_s"])
            self._metrics.count("gkd_weight_sync_bytes_total", manifest.num_bytes)
        self._metrics.gauge("gkd_policy_version", step + 1)
        self._metrics.observe("gkd_step_seconds", record["step_s"])
        for role, moved in (("sampler", "sampled"), ("teacher", "scored"), ("learner", "trained")):
            rate = record[f"{moved}_tokens"] / record["step_s"]
            record[f"{moved}_tokens_per_s"] = self.tokens_per_s[role] = rate
        for sink in self._sinks:
            sink.write({"step": step, "max_steps": self._max_steps, "attempt": self._attempt, **record})

    def begin(self, replay_capacity: int, version: int, roles: Roles) -> None:
        """The ring starts to turn at this policy version: time from here on belongs to the first step.

        Args:
            roles: whose replicas work for it.
        """
        self._step_began = self._clock()
        self._time_spent.begin(roles)
        self.progressed()
        self._metrics.gauge("gkd_queue_capacity", replay_capacity, queue="replay")
        self._metrics.gauge("gkd_policy_version", version)
        self._metrics.gauge("gkd_learner_last_step_timestamp_seconds", time.time())
