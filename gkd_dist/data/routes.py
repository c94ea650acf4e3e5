"""Which teacher scores which row, by where the row comes from (floor F2)."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gkd_dist.config.models import TeacherConfig
from gkd_dist.data.prompts import PromptStream
from gkd_dist.data.rows import Rows
from gkd_dist.types import SampleId

NUM_SHOWN = 5
"""Most sources that one message lists: a wrong column may hold thousands."""


@dataclass(frozen=True)
class SourceRoute:
    """The teacher of each sample of a stream: a pure function, so a resumed run agrees.

    Example:
        route = SourceRoute(stream, {"gsm8k": "math", "mbpp": "code"})
        route(trajectory.sample_id)  # ("math",)
    """

    stream: PromptStream
    teacher_of: Mapping[str, str]
    """Teacher's name by source."""

    def __call__(self, sample_id: SampleId) -> tuple[str, ...]:
        """Names of the teachers that score the sample: one."""
        source = self.stream.row(sample_id.prompt_index).source
        if source is None:
            raise ValueError(f"the row of {sample_id} has no source")
        return (self.teacher_of[source],)


def teacher_by_source(teachers: Mapping[str, TeacherConfig]) -> dict[str, str]:
    """Teacher's name by source, of teachers whose sources do not overlap."""
    return {source: name for name, teacher in teachers.items() for source in teacher.sources}


def route_problems(teachers: Mapping[str, TeacherConfig], rows: Rows) -> list[str]:
    """What keeps `rows` from being routed: every source needs a teacher, and every named source rows; one line each.

    Args:
        teachers: by name, under `teachers` in the configuration; their sources do not overlap.
    """
    found = rows.sources
    if not found:
        return [
            "data.fields.source: required with objective.combine_teachers=route; name the column that says where each "
            f"row of {rows.source} comes from"
        ]
    return [*_without_rows(teachers, found), *_without_teacher(teachers, found)]


def _without_rows(teachers: Mapping[str, TeacherConfig], found: Mapping[str, int]) -> Iterator[str]:
    for name, teacher in teachers.items():
        for source in teacher.sources:
            if source not in found:
                near = difflib.get_close_matches(source, found, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {_listed(found)}"
                yield f"teachers.{name}.sources: no row comes from {source!r}; {hint}"


def _without_teacher(teachers: Mapping[str, TeacherConfig], found: Mapping[str, int]) -> Iterator[str]:
    known = teacher_by_source(teachers)
    orphans = {source: number for source, number in found.items() if source not in known}
    if orphans:
        number = sum(orphans.values())
        yield (
            f"teachers: no teacher has the source of {number} row(s) ({_listed(orphans)}); add it to the sources of a "
            "teacher, or take these rows out of the data"
        )


def _listed(sources: Mapping[str, int]) -> str:
    names = [repr(source) for source in sources][:NUM_SHOWN]
    more = len(sources) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
