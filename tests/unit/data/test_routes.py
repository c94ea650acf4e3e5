"""Routing of data sources to teachers."""

import numpy as np
import pytest

from gkd_dist.config.models import TeacherConfig
from gkd_dist.data.prompts import PromptStream, RenderedRow
from gkd_dist.data.routes import SourceRoute, route_problems, teacher_by_source
from gkd_dist.data.rows import Row, Rows
from gkd_dist.types import SampleId


def teachers(**sources: tuple[str, ...]) -> dict[str, TeacherConfig]:
    return {name: TeacherConfig(model="m", sources=given) for name, given in sources.items()}


def rows(*sources: str | None) -> Rows:
    return Rows(tuple(Row("x", "y", source) for source in sources), "prompt+completion", "train.jsonl")


def test_every_sample_goes_to_the_teacher_of_its_row_in_every_epoch() -> None:
    rendered = [RenderedRow(np.asarray([index], np.int32), None, source="abc"[index % 3]) for index in range(10)]
    stream = PromptStream(rendered, run="r", seed=3, shuffle=True)
    route = SourceRoute(stream, teacher_by_source(teachers(one=("a", "c"), two=("b",))))
    for index in range(40):
        row = int(stream.prompt(index).token_ids[0])
        assert route(SampleId("r", index, repeat_index=2)) == (("two",) if row % 3 == 1 else ("one",))


def test_sources_that_fit_have_no_problem() -> None:
    assert route_problems(teachers(one=("a", "c"), two=("b",)), rows("a", "b", "b", "c")) == []


@pytest.mark.parametrize(
    ("found", "problems"),
    [
        (("gsm8k", "mbp"), ["teachers.code.sources: no row comes from 'mbpp'; did you mean 'mbp'?", "teachers: no teacher has the source of 1 row(s) ('mbp'); add it to the sources of a teacher, or take these rows out of the data"]),  # noqa: E501
        (("gsm8k",), ["teachers.code.sources: no row comes from 'mbpp'; there are 'gsm8k'"]),
        (("gsm8k", "mbpp", "x", "y", "x"), ["teachers: no teacher has the source of 3 row(s) ('x', 'y'); add it to the sources of a teacher, or take these rows out of the data"]),  # noqa: E501
        ((None, None), ["data.fields.source: required with objective.combine_teachers=route; name the column that says where each row of train.jsonl comes from"]),  # noqa: E501
    ],
)  # fmt: skip
def test_sources_that_do_not_fit_are_named(found: tuple[str | None, ...], problems: list[str]) -> None:
    assert route_problems(teachers(math=("gsm8k",), code=("mbpp",)), rows(*found)) == problems


def test_a_wrong_column_with_thousands_of_values_makes_a_short_message() -> None:
    (line,) = route_problems(teachers(math=("s0",), code=("s1",)), rows(*(f"s{index}" for index in range(5000))))
    assert "4998 row(s)" in line and "and 4993 more" in line and len(line) < 250
