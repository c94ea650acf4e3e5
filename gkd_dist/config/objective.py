"""The loss and the mixture (paper: Agarwal et al., arXiv 2306.13649, Algorithm 1 and eq. 1-2)."""

from typing import Literal

from pydantic import AliasChoices, Field, model_validator

from gkd_dist.config.base import Strict


class ScheduleConfig(Strict):
    """How student_fraction moves over the run."""

    type: Literal["constant", "linear", "step"] = "constant"
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
    "jsd": ("beta", "normalize_jsd"),
    "skewed_forward_kl": ("skew",),
    "skewed_reverse_kl": ("skew",),
    "sequence_reverse_kl": ("length_normalized",),
}
"""What some divergences alone read."""


class ObjectiveConfig(Strict):
    divergence: Literal[
        "forward_kl", "reverse_kl", "jsd", "tvd", "skewed_forward_kl", "skewed_reverse_kl", "sequence_reverse_kl"
    ] = "forward_kl"
    """forward_kl = KL(teacher || student), reverse_kl = KL(student || teacher), at each token;
    sequence_reverse_kl = KL(student || teacher) of whole completions, by policy gradient (MiniLLM)."""
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
    at temperature 1; where it is, there are none."""
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
    def may_use_student(self) -> bool:
        """Whether any step may ask for a sequence of the student."""
        return max(self.student_fraction, self.schedule.final or 0) > 0

    @property
    def idle_keys(self) -> set[str]:
        """Keys that the others leave without effect."""
        used = KEYS_OF.get(self.divergence, ())
        idle = {key for keys in KEYS_OF.values() for key in keys if key not in used}
        if self.alpha == 1:
            return idle | {"baseline", "baseline_decay"}
        return idle if self.baseline == "moving_average" else idle | {"baseline_decay"}

    @model_validator(mode="after")
    def _keys_in_use(self) -> "ObjectiveConfig":
        problems = [*self._keys_of_divergence(), *self._keys_of_reinforcement()]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _keys_of_divergence(self) -> list[str]:
        used = KEYS_OF.get(self.divergence, ())
        owners = {key: kind for kind, keys in KEYS_OF.items() for key in keys}
        idle = [key for key in owners if key in self.model_fields_set and key not in used]
        if not idle:
            return []
        wanted = " or ".join(dict.fromkeys(owners[key] for key in idle))
        return [
            f"divergence={self.divergence} does not use {' and '.join(idle)}; set divergence={wanted}, "
            "or remove what it does not use"
        ]

    def _keys_of_reinforcement(self) -> list[str]:
        idle = [key for key in ("baseline", "baseline_decay") if key in self.idle_keys & self.model_fields_set]
        if not idle:
            return []
        why, change = (
            ("alpha=1", "alpha below 1")
            if self.alpha == 1
            else (f"baseline={self.baseline}", "baseline=moving_average")
        )
        return [f"{why} does not use {' and '.join(idle)}; set {change}, or remove what it does not use"]
