"""The rules between several teachers (floor F1)."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from gkd_dist.config.models import TeacherConfig

MIXTURES = ("arithmetic", "geometric")
"""Values of `objective.combine_teachers` under which every teacher scores every row."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


def combination_problems(
    teacher: TeacherConfig | None,
    teachers: Mapping[str, TeacherConfig] | None,
    combine: str | None,
    *,
    needs_teacher: bool = True,
) -> list[str]:
    """What keeps these teachers from being asked together, one line each.

    Args:
        teacher: under `teacher`.
        teachers: under `teachers`; exactly one of the two is given, and none where no teacher is needed.
        combine: `objective.combine_teachers`.
        needs_teacher: whether the objective asks anybody.
    """
    if not needs_teacher:
        return list(_of_nobody(teacher, teachers, combine))
    if teacher is not None and teachers is not None:
        return ["teacher and teachers are both given; keep one (teacher=null takes the first away)"]
    if teacher is None and not teachers:
        return [
            "teacher: required by objective.divergence, but not given; set teacher.model, or several under teachers"
        ]
    if teacher is not None:
        return list(_alone("teacher", teacher, combine))
    named = {f"teachers.{name}": each for name, each in (teachers or {}).items()}
    problems = list(_bad_names(teachers or {}))
    if len(named) == 1:
        return problems + [line for key, each in named.items() for line in _alone(key, each, combine)]
    match combine:
        case "route":
            return [*problems, *_of_route(named)]
        case "arithmetic" | "geometric":
            return [*problems, *_of_mixture(named, combine)]
    return [
        *problems,
        "objective.combine_teachers: required with several teachers; route lets each score the data of its own "
        "sources, arithmetic and geometric mix what all of them say",
    ]


def _of_nobody(
    teacher: TeacherConfig | None, teachers: Mapping[str, TeacherConfig] | None, combine: str | None
) -> Iterator[str]:
    for key, given in (("teacher", teacher), ("teachers", teachers)):
        if given is not None:
            yield f"{key}: objective.divergence=nll learns from the data alone and asks nobody; set {key}=null"
    if combine is not None:
        yield (
            f"objective.combine_teachers={combine} needs several teachers, and objective.divergence=nll has none; "
            "remove it"
        )


def _bad_names(teachers: Mapping[str, TeacherConfig]) -> Iterator[str]:
    for name in teachers:
        if not _NAME.fullmatch(name):
            yield (
                f"teachers.{name}: a teacher's name must be 1 to 32 letters, digits, dashes and underscores that begin "
                "with a letter or digit"
            )


def _alone(key: str, teacher: TeacherConfig, combine: str | None) -> Iterator[str]:
    if combine is not None:
        yield f"objective.combine_teachers={combine} needs several teachers under teachers, and there is one; remove it"
    if teacher.sources:
        yield f"{key}.sources: a single teacher scores all data; remove them, or name further teachers under teachers"
    if teacher.weight != 1:
        yield f"{key}.weight: a single teacher has no share in a mixture; remove it"


def _of_route(teachers: Mapping[str, TeacherConfig]) -> Iterator[str]:
    owners: dict[str, list[str]] = defaultdict(list)
    for key, teacher in teachers.items():
        for source in teacher.sources:
            owners[source].append(f"{key}.sources")
        if not teacher.sources:
            yield f"{key}.sources: required with objective.combine_teachers=route; name the data that it scores"
        if teacher.weight != 1:
            yield f"{key}.weight: objective.combine_teachers=route mixes nothing; remove it"
    for source, keys in owners.items():
        if len(keys) > 1:
            where = " and ".join(dict.fromkeys(keys))
            yield f"{where}: {source!r} is given {len(keys)} times; each source has one teacher"


def _of_mixture(teachers: Mapping[str, TeacherConfig], combine: str) -> Iterator[str]:
    for key, teacher in teachers.items():
        if teacher.sources:
            yield (
                f"{key}.sources: with objective.combine_teachers={combine} every teacher scores all data; remove them, "
                "or set objective.combine_teachers=route"
            )
        if teacher.transport not in ("hidden", "full"):
            yield (
                f"{key}.transport={teacher.transport}: objective.combine_teachers={combine} needs the distribution "
                "over the whole vocabulary; use hidden or full"
            )
