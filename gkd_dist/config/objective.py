"""The loss and the mixture (paper: Agarwal et al., arXiv 2306.13649, Algorithm 1 and eq. 1-2)."""

from typing import Literal

from pydantic import AliasChoices, Field, model_validator

from gkd_dist.config.base import Strict
from gkd_dist.config.owners import idle_keys, without_effect


class ScheduleConfig(Strict):
    """How student_fraction moves over the run."""

    type: Literal["constant", "linear", "step"] = "constant"
    """`linear` moves in a straight line to `final`, `step` jumps to it."""
    final: float | None = Field(default=None, ge=0, le=1)
    """Value at the end (`linear`) or from `at_step` on (`step`)."""
    at_step: int | None = Field(default=None, ge=1)
    """First step with `final` (`step`), or where `linear` arrives; None means max_steps."""

    @model_validator(mode="after")
    def _complete(self) -> "ScheduleConfig":
        if self.type == "constant" and (self.final is not None or self.at_step is not None):
            raise ValueError("a constant schedule has no final and no at_step; set type or remove them")
        problems = []
        if self.type != "constant" and self.final is None:
            problems.append(f"a {self.type} schedule needs final; give a value in [0, 1]")
        if self.type == "step" and self.at_step is None:
            problems.append("a step schedule needs at_step; give the first step with the final value")
        if problems:
            raise ValueError("\n".join(problems))
        return self


KEYS_OF = {
    ("divergence", "jsd"): ("beta", "normalize_jsd"),
    ("divergence", "skewed_forward_kl"): ("skew",),
    ("divergence", "skewed_reverse_kl"): ("skew",),
    ("divergence", "sequence_reverse_kl"): ("length_normalized",),
    ("baseline", "moving_average"): ("baseline_decay",),
}
_REINFORCEMENT = ("baseline", "baseline_decay")
"""What is read with alpha below 1 alone."""


class ObjectiveConfig(Strict):
    divergence: Literal[
        "forward_kl",
        "reverse_kl",
        "jsd",
        "tvd",
        "skewed_forward_kl",
        "skewed_reverse_kl",
        "sequence_reverse_kl",
        "nll",
    ] = "forward_kl"
    """forward_kl = KL(teacher || student), reverse_kl = KL(student || teacher), at each token;
    sequence_reverse_kl = KL(student || teacher) of whole completions, by policy gradient (MiniLLM); nll = - log of the
    student's probability of the fixed completions, without any teacher (SFT; SeqKD where a teacher wrote them)."""
    beta: float = Field(default=0.5, gt=0, lt=1)
    """JSD interpolation: mixture = beta * teacher + (1 - beta) * student (eq. 1). The ends are `forward_kl` and
    `reverse_kl`, not values of beta. Used by `jsd` only."""
    normalize_jsd: bool = False
    """Divide the JSD by beta * (1 - beta), which makes the family continuous at both ends."""
    skew: float = Field(default=0.1, gt=0, lt=1)
    """Share of the first distribution in the second one of a skewed KL (DistiLLM)."""
    length_normalized: bool = True
    """Of `sequence_reverse_kl`: what follows a token counts by its mean, not its sum (MiniLLM, section 2.2)."""
    topk_tail: Literal["bucket", "generalized"] = "bucket"
    """Of teachers with transport `topk`: the ids outside the set count as one, or the set alone counts, as a
    generalised divergence of what does not sum to 1."""
    max_importance: float = Field(default=2.0, gt=0)
    """Cap of the importance weights student / behaviour of policy gradients, where sampling is not from the student
    that is trained at temperature 1 (mode=async lets it be an older one); where it is, there are none."""
    student_fraction: float = Field(
        default=0.5, ge=0, le=1, validation_alias=AliasChoices("student_fraction", "lmbda", "lambda")
    )
    """lambda of the paper: share of sequences the student writes itself."""
    mix: Literal["per_batch", "per_sequence"] = "per_batch"
    """`per_batch`: one coin per step (Algorithm 1); `per_sequence`: exact quota within the run."""
    schedule: ScheduleConfig = ScheduleConfig()
    reduction: Literal["sequence_mean", "token_mean"] = "sequence_mean"
    """`sequence_mean`: mean over tokens, then over sequences (eq. 2); `token_mean`: over all tokens."""
    combine_teachers: Literal["route", "arithmetic", "geometric"] | None = None
    """What several `teachers` do. `route`: each scores the rows of its own `sources`. `arithmetic`: all score every
    row, and the student learns from sum of weight * P; `geometric`: from the normalised product of P ** weight. Weights
    are divided by their sum, and each P has the temperature of its teacher."""
    alpha: float = Field(default=1.0, ge=0, le=1)
    """Share of the divergence; the rest is REINFORCE on `reward` (eq. 5). 1 is distillation alone."""
    baseline: Literal["moving_average", "leave_one_out"] = "moving_average"
    """What a reward is compared with: the mean of former steps, or of the other samples of the same prompt."""
    baseline_decay: float = Field(default=0.9, ge=0, lt=1)
    """Of `moving_average`: share of the former mean that a step keeps."""

    @property
    def needs_teacher(self) -> bool:
        """Whether anybody is compared with the student."""
        return self.divergence != "nll"

    @property
    def may_use_student(self) -> bool:
        """Whether any step may ask for a sequence of the student."""
        return max(self.student_fraction, self.schedule.final or 0) > 0

    @property
    def idle_keys(self) -> set[str]:
        """Keys that the others leave without effect."""
        return idle_keys(KEYS_OF, self) | (set(_REINFORCEMENT) if self.alpha == 1 else set())

    @model_validator(mode="after")
    def _keys_in_use(self) -> "ObjectiveConfig":
        given = self.model_fields_set
        unread = [key for key in _REINFORCEMENT if key in given and self.alpha == 1]
        problems = without_effect(KEYS_OF, self, given - set(unread))
        if unread:
            problems.append(
                f"alpha=1 does not use {' and '.join(unread)}; set alpha below 1, or remove what it does not use"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self
