"""What the dashboard shows, as a table: rows of panels over names of the catalogue (floor F2).

`%` in a query stands for the selection of runs, `~` for the span of a rate. Every metric is in some panel.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture."""

    title: str
    queries: tuple[tuple[str, str], ...]
    """PromQL, and the legend with labels as `{{name}}`."""
    unit: str = "short"
    """Grafana's name for it."""
    kind: str = "timeseries"
    """`stat` shows the last values in large print; with `shows="name"` their legends."""
    width: int = 8
    """Of 24."""
    shows: str = "value"
    help: str = ""


def _stat(title: str, expr: str, legend: str = "", *, unit: str = "short", shows: str = "value", width: int = 4,
          help: str = "") -> Panel:  # fmt: skip
    return Panel(title, ((expr, legend),), unit, "stat", width, shows, help)


def _quantiles(title: str, name: str, unit: str = "s", by: str = "", help: str = "") -> Panel:
    labels = f"instance, {by}le"
    return Panel(
        title,
        tuple(
            (f"histogram_quantile({q}, sum by ({labels}) (rate({name}_bucket{{%}}[~])))", f"p{int(100 * q)}")
            for q in (0.5, 0.95)
        ),
        unit,
        help=help,
    )


def _mean(name: str) -> str:
    return f"rate({name}_sum{{%}}[~]) / rate({name}_count{{%}}[~])"


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Overview",
        (
            _stat("Run", "gkd_run_info{%}", "{{run}}: {{student}} from {{teacher}}, {{divergence}}", shows="name",
                  width=12),
            _stat("Does", "gkd_run_stage{%} == 1", "{{stage}}", shows="name", width=3),
            _stat("Steps done", "gkd_policy_version{%} / gkd_run_max_steps{%}", unit="percentunit", width=3),
            _stat("Time left", f"(gkd_run_max_steps{{%}} - gkd_policy_version{{%}}) * {_mean('gkd_step_seconds')}",
                  unit="s", width=3),
            _stat("Version", "gkd_build_info{%}", "{{version}}", shows="name", width=3),
            _stat("Bottleneck", "topk by (instance) (1, rate(gkd_busy_seconds_total{%}[~]))", "{{part}}", shows="name",
                  width=6, help="The part of the ring that is at work for the largest share of the time. sampling: "
                  "more samplers help; scoring: more teachers; learning: a faster learner; publishing: fewer weights."),
            Panel("How busy each part is", (("clamp_max(rate(gkd_busy_seconds_total{%}[~]), 1)", "{{part}}"),),
                  "percentunit", width=9),
            Panel("Who waits", (
                ("clamp_max(rate(gkd_learner_wait_seconds_total{%}[~]), 1)", "learner, for a batch"),
                ("clamp_max(rate(gkd_sampler_blocked_seconds_total{%}[~]), 1)", "prompts, for the learner"),
            ), "percentunit", width=9),
            _stat("Since the last step", "time() - gkd_learner_last_step_timestamp_seconds{%}", unit="s", width=6),
            _stat("Loss", "gkd_learner_loss{%}", width=6),
            _stat("Train steps per minute", "60 * rate(gkd_learner_steps_total{%}[~])", width=6),
            _stat("Replicas that serve", 'sum by (instance, role) (gkd_replicas{%, state=~"healthy|suspect"})',
                  "{{role}}", width=6),
        ),
    ),
    (
        "Throughput per role",
        (
            Panel("Tokens per second", (
                ("rate(gkd_sampler_generated_tokens_total{%}[~])", "sampler"),
                ("rate(gkd_teacher_scored_tokens_total{%}[~])", "teacher"),
                ("rate(gkd_learner_trained_tokens_total{%}[~])", "learner"),
            )),
            _quantiles("Whole step", "gkd_step_seconds"),
            _quantiles("Sampling request", "gkd_sampler_generation_seconds"),
            _quantiles("Scoring request", "gkd_teacher_score_seconds"),
            _quantiles("Optimizer step", "gkd_learner_step_seconds"),
            _quantiles("Tokens of a scoring request", "gkd_teacher_batch_tokens", "short"),
            Panel("Fixed pairs, by whether they were scored before",
                  (("rate(gkd_score_cache_pairs_total{%}[~])", "{{result}}"),), "cps"),
            Panel("Targets of fixed pairs", (("rate(gkd_score_cache_bytes_total{%}[~])", "{{result}}"),), "Bps"),
            Panel("Completions by why they ended",
                  (("rate(gkd_sampler_completions_total{%}[~])", "{{finish_reason}}"),), "cps"),
            Panel("Sequences trained on, by who wrote them",
                  (("rate(gkd_trained_sequences_total{%}[~])", "{{source}}"),), "cps"),
        ),
    ),
    (
        "Queue and staleness",
        (
            Panel("Queue", (
                ("gkd_queue_depth{%}", "{{queue}}"), ("gkd_queue_capacity{%}", "{{queue}} holds at most"),
                ("gkd_inflight_prompts{%}", "rows on their way to it"),
            )),
            _quantiles("Wait in the queue", "gkd_queue_wait_seconds", by="queue, "),
            Panel("Staleness", (
                *_quantiles("", "gkd_sample_staleness_versions").queries,
                ("gkd_staleness_limit_versions{%}", "max_staleness"),
            )),
            Panel("Samples dropped", (("rate(gkd_samples_dropped_total{%}[~])", "{{reason}}"),), "cps", width=12),
            Panel("Answers rejected", (("rate(gkd_messages_rejected_total{%}[~])", "{{role}}: {{reason}}"),), "cps",
                  width=12),
        ),
    ),
    (
        "Fleet",
        (
            Panel("Replicas", (
                ("gkd_replicas{%} > 0", "{{role}}: {{state}}"), ("gkd_replicas_target{%}", "{{role}}: target"),
            )),
            Panel("Restarts in an hour", (
                ("increase(gkd_replica_restarts_total{%}[1h]) > 0", "{{role}}: {{reason}}"),
                ("increase(gkd_learner_restarts_total{%}[1h])", "learner"),
            )),
            Panel("Requests", (
                ("rate(gkd_requests_total{%}[~])", "{{role}}"),
                ("rate(gkd_requests_retried_total{%}[~])", "{{role}}: asked again, {{class}}"),
                ("rate(gkd_requests_hedged_total{%}[~])", "{{role}}: second copy"),
            ), "reqps"),
        ),
    ),
    (
        "Weights and checkpoints",
        (
            Panel("Policy version", (
                ("gkd_policy_version{%}", "live"), ("gkd_replica_weight_version{%}", "{{role}} {{slot}}"),
            )),
            _quantiles("From publication until all samplers serve it", "gkd_weight_sync_seconds"),
            Panel("Weights published", (("rate(gkd_weight_sync_bytes_total{%}[~])", "bytes"),), "Bps"),
            Panel("Checkpoint age", (
                ("gkd_policy_version{%} - gkd_checkpoint_last_step{%}", "train steps"),
                ("gkd_checkpoint_interval_steps{%}", "steps between two"),
            )),
            _quantiles("Writing a checkpoint", "gkd_checkpoint_save_seconds"),
            _stat("Last good checkpoint", "time() - gkd_checkpoint_last_success_timestamp_seconds{%}", unit="s",
                  width=8),
            Panel("Failures in an hour", (
                ("increase(gkd_weight_sync_failures_total{%}[1h])", "weights not taken"),
                ("increase(gkd_checkpoint_failures_total{%}[1h])", "checkpoints not written"),
                ("increase(gkd_journal_skipped_total{%}[1h])", "sequences that the journal missed"),
            ), width=24),
        ),
    ),
    (
        "Loss",
        (
            Panel("Loss", (("gkd_learner_loss{%}", "nats"),)),
            Panel("Gradient norm", (("gkd_learner_grad_norm{%}", "before clipping"),)),
            Panel("Learning rate", (("gkd_learner_learning_rate{%}", "learning rate"),), "sci"),
            Panel("Held-out divergence", (("gkd_held_out_divergence_nats{%}", "{{text}} {{kind}} {{when}}"),)),
            Panel("Reward", (
                ("gkd_reward_mean{%}", "last step"), ("gkd_held_out_reward_mean{%}", "held out, {{when}}"),
            )),
            Panel("Steps skipped in an hour", (("increase(gkd_learner_nonfinite_steps_total{%}[1h])", "not finite"),)),
            Panel("Sampler against learner, nats", (
                ("gkd_behaviour_gap_mean_nats{%}", "mean"), ("gkd_behaviour_gap_max_nats{%}", "most"),
            )),
            Panel("Teacher's mass in its top K", (("gkd_teacher_mass_ratio{%}", "mean"),), "percentunit"),
            Panel("Teacher against its golden answers, nats", (
                ("gkd_teacher_golden_gap_nats{%}", "last check"),
                ("increase(gkd_teacher_checks_total{%}[1h])", "checks in an hour"),
            )),
        ),
    ),
)  # fmt: skip

SELECTION = 'instance=~"$instance"'
RATE_SPAN = "$__rate_interval"


def queries(selection: str = SELECTION, span: str = RATE_SPAN) -> list[str]:
    """All queries of the dashboard, in order, over these runs and this span."""
    fill = filled(selection, span)
    return [fill(expr) for _, panels in ROWS for panel in panels for expr, _ in panel.queries]


def filled(selection: str = SELECTION, span: str = RATE_SPAN) -> Callable[[str], str]:
    """Puts both into a query of the table."""
    return lambda expr: expr.replace("%", selection).replace("[~]", f"[{span}]")
