"""Which objective goes with which teacher transport, and what it asks of sampling (floor F1)."""

from collections.abc import Iterator, Mapping

from gkd_dist.config.models import TeacherConfig
from gkd_dist.config.objective import ObjectiveConfig
from gkd_dist.config.ring import EvaluationConfig, SamplingConfig


def transport_problems(
    objective: ObjectiveConfig,
    teachers: Mapping[str, TeacherConfig],
    sampling: SamplingConfig,
    evaluation: EvaluationConfig,
) -> list[str]:
    """What of a configuration cannot give the gradient it asks for, one line each.

    Args:
        teachers: by the key of their settings: `teacher`, or `teachers.NAME`.
    """
    problems = list(_of_likelihood(objective)) if objective.divergence == "nll" else []
    for key, teacher in teachers.items():
        problems += _of_teacher(objective, key, teacher, evaluation)
    if is_policy_gradient(objective, teachers):
        problems += _of_policy_gradient(objective, teachers, sampling)
    return list(dict.fromkeys(problems))


def is_policy_gradient(objective: ObjectiveConfig, teachers: Mapping[str, TeacherConfig]) -> bool:
    """Whether the gradient is right only in expectation over tokens that the student draws."""
    return objective.divergence == "sequence_reverse_kl" or "sampled" in {each.transport for each in teachers.values()}


def _of_teacher(
    objective: ObjectiveConfig, key: str, teacher: TeacherConfig, evaluation: EvaluationConfig
) -> Iterator[str]:
    if teacher.transport == "topk" and teacher.temperature > 1:
        yield (
            f"{key}.temperature ({teacher.temperature:g}) is above 1, and transport=topk does not say how the tail "
            "would spread; use transport=hidden or full, or a temperature of at most 1"
        )
    if (
        objective.topk_tail != "bucket"
        and objective.divergence == "sequence_reverse_kl"
        and teacher.transport == "topk"
    ):
        yield (
            "objective.topk_tail=generalized is no distribution, and divergence=sequence_reverse_kl needs one; use "
            "topk_tail=bucket"
        )
    if teacher.transport != "sampled":
        return
    if objective.divergence not in ("reverse_kl", "sequence_reverse_kl"):
        yield (
            f"objective.divergence={objective.divergence} needs more than the log-prob of one token, which is all that "
            f"{key}.transport=sampled gives; use divergence=reverse_kl or sequence_reverse_kl, or another transport"
        )
    if teacher.temperature != 1:
        yield (
            f"{key}.temperature ({teacher.temperature:g}) cannot be applied to the log-prob of one token; use 1, or "
            "another transport than sampled"
        )
    if evaluation.enabled and evaluation.temperature != 1:
        yield (
            f"evaluation.temperature ({evaluation.temperature:g}) must be 1 with {key}.transport=sampled: the "
            "divergence is estimated from tokens drawn from the student itself"
        )


def _of_likelihood(objective: ObjectiveConfig) -> Iterator[str]:
    """Its own text teaches a student nothing: the likelihood of what it writes anyway would grow without bound."""
    for key, share in (("student_fraction", objective.student_fraction), ("schedule.final", objective.schedule.final)):
        if share:
            yield (
                f"objective.{key} ({share:g}) must be 0 with objective.divergence=nll, which learns fixed completions "
                "by heart; set it to 0, or choose a divergence from a teacher"
            )


def _of_policy_gradient(
    objective: ObjectiveConfig, teachers: Mapping[str, TeacherConfig], sampling: SamplingConfig
) -> Iterator[str]:
    sampled = [key for key, each in teachers.items() if each.transport == "sampled"]
    what = f"{sampled[0]}.transport=sampled" if sampled else f"objective.divergence={objective.divergence}"
    final = objective.schedule.final
    if min(objective.student_fraction, 1.0 if final is None else final) < 1:
        name = "objective.student_fraction" if objective.student_fraction < 1 else "objective.schedule.final"
        yield f"{name} must be 1 with {what}: the estimate holds for tokens that the student drew, not for fixed ones"
    cuts = {"top_p": sampling.top_p < 1, "top_k": sampling.top_k > 0, "min_p": sampling.min_p > 0}
    cut = [f"sampling.{key}" for key, on in cuts.items() if on]
    if cut:
        yield (
            f"{' and '.join(cut)} must not cut the distribution with {what}: tokens that are never drawn would never "
            "be judged; remove it (defaults: top_p=1, top_k=0, min_p=0)"
        )
