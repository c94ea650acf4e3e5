"""Recording and alerting rules for Prometheus, over the names of the catalogue (floor F2).

Each is for every run by itself: what tells runs apart are the labels of the scrape. Which those are is up to whoever
scrapes (`job`, `instance`, `component`, `pod`, ...), so all are kept: sums are `without` labels of ours, and both sides
of an operator have the same ones, but for those that it is `ignoring`. Only what must outlive a process is by the name
of its run. The runbook, docs/alerts.md, has a section for each alert.
"""

from dataclasses import dataclass, field

from gkd_dist.metrics.catalogue import definition_of

_BY_RUN = "by (job, namespace, run)"
_INFO_LABELS = ", ".join(definition_of("gkd_run_info").labels)
_TRAINING = 'ignoring (stage) gkd_run_stage{stage="training"} == 1'
_IS_ASYNC = "gkd_staleness_limit_versions > 0"
_STARTING = 'ignoring (stage) (gkd_run_stage{stage="starting"} == 1)'
RUNBOOK = "docs/alerts.md"


@dataclass(frozen=True, slots=True)
class Recording:
    """A query that is kept as a series of its own: `gkd:WHAT:OPERATION`."""

    record: str
    expr: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should know."""

    name: str
    severity: str
    """`critical`: the run makes no progress; `warning`: it will not for long, or not well; `info`: it could be faster.
    """
    for_: str
    """How long it must be so."""
    expr: str
    summary: str
    """With the labels of the alert as `{{ $labels.NAME }}`, and its value."""

    @property
    def runbook(self) -> str:
        return f"{RUNBOOK}#{self.name.lower()}"


RECORDINGS: tuple[Recording, ...] = (
    Recording("gkd:role_tokens:rate5m", "rate(gkd_sampler_generated_tokens_total[5m])", {"role": "sampler"}),
    Recording("gkd:role_tokens:rate5m", "rate(gkd_teacher_scored_tokens_total[5m])", {"role": "teacher"}),
    Recording("gkd:role_tokens:rate5m", "rate(gkd_learner_trained_tokens_total[5m])", {"role": "learner"}),
    Recording("gkd:busy:ratio_rate5m", "clamp_max(rate(gkd_busy_seconds_total[5m]), 1)"),
    Recording("gkd:bottleneck:ratio_rate5m", "topk without (part) (1, gkd:busy:ratio_rate5m)"),
    Recording("gkd:learner_wait:ratio_rate5m", "clamp_max(rate(gkd_learner_wait_seconds_total[5m]), 1)"),
    Recording("gkd:sampler_blocked:ratio_rate5m", "clamp_max(rate(gkd_sampler_blocked_seconds_total[5m]), 1)"),
    Recording(  # whatever serves the run: what goes on with it may do so from another address
        "gkd:run_at_work:max",
        f'max {_BY_RUN} (gkd_run_stage{{stage=~"evaluating|training|saving|stopping"}}'
        f" * ignoring (stage, {_INFO_LABELS}) group_left (run) gkd_run_info)",
    ),
    Recording(
        "gkd:sample_staleness:p95_15m",
        "histogram_quantile(0.95, rate(gkd_sample_staleness_versions_bucket[15m]))",
    ),
    Recording(
        "gkd:requests_retried:ratio_rate15m",
        "sum without (class) (rate(gkd_requests_retried_total[15m])) / rate(gkd_requests_total[15m])",
    ),
)

ALERTS: tuple[Alert, ...] = (
    Alert(
        "GkdMetricsAbsent", "critical", "5m",
        "last_over_time(gkd:run_at_work:max[1d]) == 1 unless gkd:run_at_work:max",
        "{{ $labels.run }} was at work when its metrics ended, and nothing goes on with it.",
    ),
    Alert(
        "GkdLearnerStalled", "critical", "1m",
        f"(time() - gkd_learner_last_step_timestamp_seconds > 600) and {_TRAINING}",
        "No train step for {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "GkdNoHealthySampler", "critical", "2m",
        f'(sum without (role, state) (gkd_replicas{{role="sampler", state="healthy"}}) == 0) unless {_STARTING}',
        "No sampler is healthy.",
    ),
    Alert(
        "GkdNoHealthyTeacher", "critical", "2m",
        f'(sum without (role, state) (gkd_replicas{{role="teacher", state="healthy"}}) == 0) unless {_STARTING}',
        "No teacher is healthy.",
    ),
    Alert(
        "GkdRestartRateHigh", "warning", "0m",
        'sum without (reason) (increase(gkd_replica_restarts_total{reason!="scaled"}[15m])) > 3',
        "{{ $value | humanize }} restarts of a {{ $labels.role }} in 15 minutes.",
    ),
    Alert(
        "GkdLearnerRestarted", "warning", "0m", "increase(gkd_learner_restarts_total[15m]) > 0",
        "The learner died, and another one went on from the last checkpoint.",
    ),
    Alert(
        "GkdRetryRatioHigh", "warning", "5m",
        "gkd:requests_retried:ratio_rate15m > 0.2"
        " and sum without (class) (increase(gkd_requests_retried_total[15m])) >= 5",
        "{{ $value | humanizePercentage }} of the requests to a {{ $labels.role }} are asked again.",
    ),
    Alert(
        "GkdQueueFull", "info", "15m",
        f"(gkd:learner_wait:ratio_rate5m < 0.05) and increase(gkd_learner_steps_total[15m]) > 0 and {_TRAINING}",
        "The learner finds a full batch whenever it looks: it sets the pace.",
    ),
    Alert(
        "GkdQueueEmpty", "info", "15m", f"(gkd:learner_wait:ratio_rate5m > 0.5) and {_TRAINING} and {_IS_ASYNC}",
        "The learner waits {{ $value | humanizePercentage }} of the time: samplers or teachers set the pace.",
    ),
    Alert(
        # Buckets are whole numbers up to 8, and above that less than half of a number wide.
        "GkdStalenessHigh", "warning", "5m",
        "gkd:sample_staleness:p95_15m"
        " > (gkd_staleness_limit_versions <= 8 or 1.5 * gkd_staleness_limit_versions)",
        "The 95th percentile of the staleness is {{ $value | humanize }} versions, above max_staleness.",
    ),
    Alert(
        "GkdNonfiniteSteps", "warning", "0m", "increase(gkd_learner_nonfinite_steps_total[15m]) > 0",
        "Train steps were skipped: loss or gradient was not finite.",
    ),
    Alert(
        "GkdCheckpointOld", "warning", "1m",
        "(gkd_policy_version - (gkd_checkpoint_last_step or 0 * gkd_policy_version))"
        " > 2 * (gkd_checkpoint_interval_steps > 0)",
        "The newest good checkpoint is {{ $value }} train steps old, more than two intervals.",
    ),
    Alert(
        "GkdCheckpointFailing", "warning", "0m", "increase(gkd_checkpoint_failures_total[15m]) > 0",
        "A checkpoint could not be written.",
    ),
    Alert(
        "GkdJournalBehind", "warning", "0m", "increase(gkd_journal_skipped_total[15m]) > 0",
        "Scored sequences did not get into the journal: after a crash they are sampled and scored again.",
    ),
    Alert(
        "GkdWeightSyncFailing", "warning", "0m", "increase(gkd_weight_sync_failures_total[15m]) > 0",
        "Samplers did not take new weights.",
    ),
    Alert(
        "GkdMessagesRejected", "warning", "0m",
        "increase(gkd_messages_rejected_total[15m]) > 0",
        "Answers of a {{ $labels.role }} were not accepted ({{ $labels.reason }}).",
    ),
)  # fmt: skip


def rule_groups(runbooks: str = "") -> dict[str, object]:
    """What Prometheus reads: one group that records, and one that alerts.

    Args:
        runbooks: what a link to a runbook begins with, such as the address under which docs/ is published.
    """
    records = [
        {"record": each.record, "expr": each.expr, **({"labels": each.labels} if each.labels else {})}
        for each in RECORDINGS
    ]
    alerts = [
        {
            "alert": each.name,
            "expr": each.expr,
            "for": each.for_,
            "labels": {"severity": each.severity},
            "annotations": {"summary": each.summary, "runbook_url": runbooks + each.runbook},
        }
        for each in ALERTS
    ]
    return {"groups": [{"name": "gkd-records", "rules": records}, {"name": "gkd-alerts", "rules": alerts}]}
