"""Every metric there is, in one table (floor F2).

Conventions of Prometheus: base units in the name, counters end in `_total`, info metrics in `_info` with value 1.
Labels are bounded: each lists its values, but for those of info metrics, which have one series each. Ids, prompts,
paths and addresses are never labels. Dashboards, alerts and the exporter read names from here alone.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from math import prod

from gkd_dist.config.supervision import SLOTS_SHOWN
from gkd_dist.types import FinishReason, Source

REPLICATED_ROLES = ("sampler", "teacher")
"""Roles of which there may be several replicas that stand in for each other; all teachers are one role."""
REPLICA_STATES = ("healthy", "suspect", "dead", "restarting", "stale", "draining", "retired")
DEATHS = ("probe", "request", "died", "oom", "obligation", "start", "no_room", "scaled")
"""Why a replica had to be started again; `supervision/health.py` says what each means."""
SLOTS = (*map(str, range(SLOTS_SHOWN)), "rest")
"""Places of replicas, stable over restarts."""
STAGES = ("starting", "evaluating", "training", "saving", "stopping", "ended")
"""`ended` in order: finished, or stopped with a checkpoint."""
PARTS = ("sampling", "scoring", "learning", "publishing")
"""Work of the ring that may hold up the rest of it."""
REJECTIONS = ("frame", "answer")
"""What came is no message at all, or one that cannot be the answer."""
QUEUES = ("replay",)
"""Scored sequences that wait for the learner."""
SOURCES = tuple(source.value for source in Source)
"""Who writes what is trained on."""
DIVERGENCE_KINDS = ("forward_kl", "reverse_kl", "objective")
EVALUATION_TEXTS = ("on_policy", "reference")
"""Whose completions: the student's own, or those of the data."""
CACHE_RESULTS = ("hit", "miss")
"""Whether a teacher had scored a fixed pair before."""
DROP_REASONS = ("too_stale", "rejected", "lost")
EVALUATION_TIMES = ("before", "after")

_WORK_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0)
_SYNC_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)
_STALENESS_VERSIONS = (*map(float, range(9)), 12.0, 16.0, 24.0, 32.0)
"""Whole numbers as far as limits usually go: there a quantile is exact enough to be compared with one."""
_BATCH_TOKENS = tuple(4.0**power for power in range(3, 11))


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric."""

    name: str
    kind: Kind
    help: str
    unit: str = ""
    """Base unit, for people and dashboards: `seconds`, `tokens`, `nats`; empty when it is a bare number."""
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Label -> its possible values; empty values mean free text, for info metrics alone."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, ascending, without the infinite one."""
    is_signed: bool = False
    """Whether it may be below 0."""

    @property
    def is_info(self) -> bool:
        return self.name.endswith("_info")

    @property
    def num_series(self) -> int:
        """The most time series this metric can have."""
        per_child = len(self.buckets) + 3 if self.kind is Kind.HISTOGRAM else 1  # +Inf, sum and count
        return per_child if self.is_info else per_child * prod(len(values) for values in self.labels.values())

    def label_sets(self) -> list[dict[str, str]]:
        """All combinations of label values; one empty set when there are no labels."""
        return [dict(zip(self.labels, values, strict=True)) for values in product(*self.labels.values())]


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

DEFINITIONS: tuple[Definition, ...] = (
    Definition("gkd_build_info", _G, "Version of this package.", labels={"version": ()}),
    Definition(
        "gkd_run_info", _G, "What this run distils.",
        labels={"run": (), "student": (), "teacher": (), "divergence": ()},
    ),
    Definition(
        "gkd_run_stage", _G, "1 for what the run does now, 0 for all else.", labels={"stage": STAGES},
    ),
    Definition("gkd_run_max_steps", _G, "Train steps that the run shall have.", "steps"),
    # samplers
    Definition(
        "gkd_sampler_completions_total", _C, "Completions the student wrote, by why they ended.", "completions",
        labels={"finish_reason": tuple(reason.value for reason in FinishReason)},
    ),
    Definition("gkd_sampler_generated_tokens_total", _C, "Completion tokens the student wrote.", "tokens"),
    Definition(
        "gkd_sampler_generation_seconds", _H, "Wall time of one sampling request (many prompts).", "seconds",
        buckets=_WORK_SECONDS,
    ),
    # teachers
    Definition(
        "gkd_teacher_scored_tokens_total", _C,
        "Prompt and completion tokens read, by each teacher; not those of kept scores.", "tokens",
    ),
    Definition(
        "gkd_teacher_score_seconds", _H, "Wall time of one scoring request (many sequences).", "seconds",
        buckets=_WORK_SECONDS,
    ),
    Definition(
        "gkd_teacher_batch_tokens", _H, "Prompt and completion tokens of one scoring request.", "tokens",
        buckets=_BATCH_TOKENS,
    ),
    Definition(
        "gkd_score_cache_pairs_total", _C, "Fixed pairs to score: a hit was kept from a former time, a miss asked for.",
        "pairs", labels={"result": CACHE_RESULTS},
    ),
    Definition(
        "gkd_score_cache_bytes_total", _C, "Bytes of the targets of these pairs.", "bytes",
        labels={"result": CACHE_RESULTS},
    ),
    Definition("gkd_teacher_checks_total", _C, "Times a teacher was asked golden sequences.", "checks"),
    Definition(
        "gkd_teacher_golden_gap_nats", _G,
        "Largest difference of a log-prob from what it should be, in the last check of the teachers.", "nats",
    ),
    Definition(
        "gkd_teacher_mass_ratio", _G, "Teacher's probability in its top K: mean over the last train step's tokens.",
    ),
    # reward
    Definition("gkd_reward_mean", _G, "Mean reward of the student's answers in the last train step that had some.",
               is_signed=True),
    Definition(
        "gkd_held_out_reward_mean", _G, "Mean reward of the student's answers to held-out prompts.",
        labels={"when": EVALUATION_TIMES}, is_signed=True,
    ),
    # learner
    Definition("gkd_learner_steps_total", _C, "Train steps done.", "steps"),
    Definition("gkd_learner_trained_tokens_total", _C, "Completion tokens trained on.", "tokens"),
    Definition(
        "gkd_trained_sequences_total", _C, "Sequences trained on, by who wrote the completion.", "sequences",
        labels={"source": SOURCES},
    ),
    Definition("gkd_learner_step_seconds", _H, "Wall time of one optimizer step.", "seconds", buckets=_WORK_SECONDS),
    Definition("gkd_learner_loss", _G, "Loss of the last train step, nats.", "nats", is_signed=True),  # with a reward
    Definition("gkd_learner_grad_norm", _G, "Gradient norm of the last train step, before clipping."),
    Definition("gkd_learner_learning_rate", _G, "Learning rate of the last train step."),
    Definition(
        "gkd_learner_restarts_total", _C, "Learners started in the place of one that died.", "restarts",
    ),
    Definition("gkd_learner_nonfinite_steps_total", _C, "Steps skipped: loss or gradient was not finite.", "steps"),
    Definition(
        "gkd_learner_last_step_timestamp_seconds", _G, "Unix time when training began, or its last step ended.",
        "seconds",
    ),
    Definition(
        "gkd_behaviour_gap_mean_nats", _G,
        "Between sampler and learner, log-prob of a sampled token: mean over some tokens of the newest step that had "
        "sequences written by its own weights (in asynchronous runs few have).", "nats",
    ),
    Definition("gkd_behaviour_gap_max_nats", _G, "The same, at the token where they differ most.", "nats"),
    # flow
    Definition(
        "gkd_busy_seconds_total", _C, "Time in which at least one request of a part was under way.", "seconds",
        labels={"part": PARTS},
    ),
    Definition(
        "gkd_step_seconds", _H, "Wall time of one whole step: sample, score, learn and publish.", "seconds",
        buckets=_WORK_SECONDS,
    ),
    Definition("gkd_queue_depth", _G, "Items waiting, of all kinds.", "items", labels={"queue": QUEUES}),
    Definition("gkd_queue_capacity", _G, "Most items that may wait, of all kinds.", "items", labels={"queue": QUEUES}),
    Definition(
        "gkd_queue_wait_seconds", _H, "Time from a sequence's arrival in a queue until it was first taken.", "seconds",
        labels={"queue": QUEUES}, buckets=_WORK_SECONDS,
    ),
    Definition(
        "gkd_inflight_prompts", _G, "Rows of the data (prompts or pairs) on their way to the replay.", "prompts",
    ),
    Definition(
        "gkd_messages_rejected_total", _C, "Answers of replicas that were no message, or not to be believed.",
        "messages", labels={"role": REPLICATED_ROLES, "reason": REJECTIONS},
    ),
    Definition(
        "gkd_staleness_limit_versions", _G, "Most policy versions that a sample may be behind (max_staleness).",
        "versions",
    ),
    Definition(
        "gkd_sample_staleness_versions", _H, "Policy versions between a sample's oldest token and its train step.",
        "versions", buckets=_STALENESS_VERSIONS,
    ),
    Definition(
        "gkd_samples_dropped_total", _C,
        "Sequences thrown away: too stale (issued again), rejected by all, or lost as often as it was asked for.",
        "sequences", labels={"reason": DROP_REASONS},
    ),
    # replicas
    Definition(
        "gkd_replicas", _G, "Replicas of a role, by state.", "replicas",
        labels={"role": REPLICATED_ROLES, "state": REPLICA_STATES},
    ),
    Definition(
        "gkd_replicas_target", _G, "Replicas that a role should have.", "replicas", labels={"role": REPLICATED_ROLES},
    ),
    Definition(
        "gkd_replica_restarts_total", _C, "Replicas started again, by why the former one ended.", "restarts",
        labels={"role": REPLICATED_ROLES, "reason": DEATHS},
    ),
    Definition(
        "gkd_replica_weight_version", _G,
        f"Policy version that a replica holds, NaN where none runs; from slot {SLOTS_SHOWN} on the oldest.", "versions",
        labels={"role": ("sampler",), "slot": SLOTS},
    ),
    Definition(
        "gkd_requests_total", _C, "Requests to a role, each once however often it was asked.", "requests",
        labels={"role": REPLICATED_ROLES},
    ),
    Definition(
        "gkd_requests_retried_total", _C, "Requests asked again: infra blames the replica, data the request.",
        "requests", labels={"role": REPLICATED_ROLES, "class": ("infra", "data")},
    ),
    Definition(
        "gkd_requests_hedged_total", _C, "Requests sent to a second replica because the first was late.", "requests",
        labels={"role": REPLICATED_ROLES},
    ),
    Definition(
        "gkd_learner_wait_seconds_total", _C, "Time that the learner waited for a batch.", "seconds",
    ),
    Definition(
        "gkd_sampler_blocked_seconds_total", _C, "Time in which no prompt might be begun: the learner is behind.",
        "seconds",
    ),
    # checkpoints
    Definition(
        "gkd_checkpoint_interval_steps", _G, "Train steps between two checkpoints; 0 is only when stopped.", "steps",
    ),
    Definition("gkd_checkpoint_last_step", _G, "Train step of the newest good checkpoint.", "steps"),
    Definition(
        "gkd_checkpoint_last_success_timestamp_seconds", _G, "When the newest good checkpoint was finished.", "seconds",
    ),
    Definition("gkd_checkpoint_failures_total", _C, "Checkpoints that could not be written.", "checkpoints"),
    Definition(
        "gkd_journal_skipped_total", _C, "Scored sequences that did not get into the journal.", "sequences",
    ),
    Definition(
        "gkd_checkpoint_save_seconds", _H, "Wall time of writing one checkpoint, beside the training.", "seconds",
        buckets=_WORK_SECONDS,
    ),
    # weights
    Definition("gkd_policy_version", _G, "Newest policy version; 0 is the initial student.", "versions"),
    Definition(
        "gkd_weight_sync_seconds", _H, "Wall time from the publication of a version until all samplers serve it.",
        "seconds", buckets=_SYNC_SECONDS,
    ),
    Definition("gkd_weight_sync_bytes_total", _C, "Bytes of weights published, once per version.", "bytes"),
    Definition(
        "gkd_weight_sync_failures_total", _C, "Times that a sampler did not take weights that it should have.",
        "failures",
    ),
    # evaluation
    Definition(
        "gkd_held_out_divergence_nats", _G, "Divergence between teacher and student on held-out rows, per token.",
        "nats", labels={"text": EVALUATION_TEXTS, "kind": DIVERGENCE_KINDS, "when": EVALUATION_TIMES},
        is_signed=True,  # an estimate from samples may be
    ),
)  # fmt: skip

MAX_SERIES = sum(definition.num_series for definition in DEFINITIONS)
"""The most time series one run can export."""


def definition_of(name: str) -> Definition:
    """The metric of this name.

    Raises:
        ValueError: there is none.
    """
    for definition in DEFINITIONS:
        if definition.name == name:
            return definition
    raise ValueError(f"no metric is called {name!r}; add it to gkd_dist/metrics/catalogue.py")
