"""What happens when a part fails: supervision of replicas, budgets, deadlines, checkpoints."""

from pydantic import Field

from gkd_dist.config.base import MAX_COUNT, MAX_DURATION_S, Strict

SLOTS_SHOWN = 64
"""Replicas of a role that metrics tell apart, by slot; those from here on are one series."""


class SupervisionConfig(Strict):
    """Limits within which a run heals itself, and beyond which it stops with a diagnosis."""

    probe_interval_s: float = Field(default=5.0, gt=0, le=MAX_DURATION_S)
    """Between two pings of a replica; one that has answered a request since the last is not pinged."""
    probe_timeout_s: float = Field(default=3.0, gt=0, le=MAX_DURATION_S)
    """Of one ping; an unanswered one is a failure."""
    failures_to_condemn: int = Field(default=3, ge=1, le=MAX_COUNT)
    """Failures in a row, of probes or of real requests (counted apart), after which a replica is ended and replaced."""
    successes_to_clear: int = Field(default=2, ge=1, le=MAX_COUNT)
    """Of the kind that failed, in a row, until a suspect replica counts as healthy again."""
    max_restarts: int = Field(default=5, ge=0, le=MAX_COUNT)
    """Of a slot, until it is in good health for restart_reset_s; one that needs more is retired."""
    restart_reset_s: float = Field(default=600.0, gt=0, le=MAX_DURATION_S)
    """A slot that was in good health for so long without a break has all of max_restarts before it again, and its next
    restart waits no longer than restart_backoff_s: the limit is for what fails again and again, not for a long run."""
    restart_backoff_s: float = Field(default=1.0, gt=0, le=MAX_DURATION_S)
    """Before the first restart of a slot; doubles with every further one."""
    max_restart_backoff_s: float = Field(default=60.0, gt=0, le=MAX_DURATION_S)
    """Longest wait before a restart."""
    infra_attempts: int = Field(default=5, ge=1, le=MAX_COUNT)
    """Of one request, over all replicas, while replicas die or do not answer. Asynchronous runs give up a request that
    used them up, and go on: its row is issued again, and dropped when that has happened to it so many times; more
    requests given up in a row than this, with none answered in between, end the run. Synchronous runs end at once."""
    data_attempts: int = Field(default=2, ge=1, le=MAX_COUNT)
    """Of one request that replicas refuse or answer wrongly; then its prompt is dropped and counted."""
    max_dropped: int = Field(default=100, ge=0, le=MAX_COUNT)
    """Prompts dropped in a whole run; one more ends it."""
    hedge_after_s: float | None = Field(default=None, gt=0, le=MAX_DURATION_S)
    """A request without an answer for so long, since a replica has it in hand, is sent to a second one too, as soon as
    that has room; the first answer counts. None: never."""
    role_loss_grace_s: float = Field(default=120.0, gt=0, le=MAX_DURATION_S)
    """How long a run waits while no replica of a role serves."""
    max_learner_restarts: int = Field(default=1, ge=0, le=MAX_COUNT)
    """Starts of a new learner from the last checkpoint, within one run."""
    stall_timeout_s: float = Field(default=900.0, gt=0, le=MAX_DURATION_S)
    """Without any progress for so long, the run writes a diagnosis, tries a checkpoint and ends with exit code 70."""
    catch_up_timeout_s: float = Field(default=60.0, gt=0, le=MAX_DURATION_S)
    """What a replica has to load new weights while another has them; it serves no more after that until it has, too.
    """
    drain_timeout_s: float = Field(default=60.0, gt=0, le=MAX_DURATION_S)
    """What a replica that is scaled away has to finish its requests; they go elsewhere after that."""


OF_REPLICAS = frozenset(SupervisionConfig.model_fields) - {
    "infra_attempts",
    "data_attempts",
    "max_dropped",
    "hedge_after_s",
    "stall_timeout_s",
}
"""Keys about processes that end and are replaced: nothing reads them where the whole ring is one process."""


class CheckpointConfig(Strict):
    """Checkpoints that a run continues from; names follow transformers' TrainingArguments."""

    save_steps: int = Field(default=20, ge=0, le=MAX_COUNT)
    """Train steps between two checkpoints; 0 saves one only when the run is asked to stop. One that falls due while the
    former is still being written is skipped: where writing takes longer, they are further apart."""
    save_total_limit: int = Field(default=2, ge=1, le=MAX_COUNT)
    """So many of the newest are kept, and the newest from before the teachers' last good check (`sentinel_steps`): a
    run whose teacher changed goes on from there."""
    resume: bool = True
    """Go on with the newest unfinished run of this name below output_dir, where it has a checkpoint; false starts anew.
    """
    timeout_s: float = Field(default=600.0, gt=0, le=MAX_DURATION_S)
    """Until a checkpoint that takes longer counts as failed; the former ones stay."""
    max_failures: int = Field(default=3, ge=1, le=MAX_COUNT)
    """Failed checkpoints in a row after which the run ends."""
    journal: bool = True
    """Keep scored sequences on disk until a checkpoint holds the step that trained on them."""
