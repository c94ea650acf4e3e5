"""Teachers' own answers to what is shown: of those who are asked, within the limit, and never at the price of a run."""

import asyncio
from collections.abc import Sequence

from gkd_dist.errors import EngineError
from gkd_dist.fleet import Fleet
from gkd_dist.pipeline.evaluation import HeldOut
from gkd_dist.pipeline.routing import TeachersOf
from gkd_dist.pipeline.teacher_answers import TeacherAnswers, teacher_answers
from gkd_dist.supervision.pool import Pool
from gkd_dist.testing.fakes import FakeTeacher
from gkd_dist.types import SamplingParams, Trajectory
from tests import tiny

DRAFTS = tiny.trajectories([(3, 4), (2, 6)])


class Mute(FakeTeacher):
    async def complete(
        self, drafts: Sequence[Trajectory], max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        raise EngineError("no answer")


def ask(
    teachers: dict[str, FakeTeacher], most: int = 64, teachers_of: TeachersOf | None = None, sampled: int = 16
) -> TeacherAnswers:
    held_out = HeldOut(
        prompts=(),
        pairs=(),
        sampling=SamplingParams(max_new_tokens=sampled, temperature=1.0, seed=0, stop_token_ids=(tiny.STOP,)),
        num_shown=2,
        teachers_of=teachers_of,
        max_teacher_tokens=most,
    )
    pools = {name: Pool.of([teacher]) for name, teacher in teachers.items()}
    fleet = Fleet(samplers=None, teachers=pools, learner=None)  # type: ignore[arg-type]
    return asyncio.run(teacher_answers(fleet, held_out, DRAFTS))


def backwards(index: int) -> list[int]:
    return DRAFTS[index].completion_ids[::-1].tolist()


def test_every_teacher_answers_every_prompt() -> None:
    both = {0: backwards(0), 1: backwards(1)}
    assert ask({"a": FakeTeacher(), "b": FakeTeacher()}) == {"a": both, "b": both}


def test_the_smaller_of_two_limits_holds() -> None:
    assert ask({"a": FakeTeacher()}, most=3)["a"][1] == backwards(1)[:3]
    assert ask({"a": FakeTeacher()}, sampled=2)["a"][1] == backwards(1)[:2]


def test_none_is_asked_for_no_tokens() -> None:
    assert ask({"a": FakeTeacher()}, most=0) == {}


def test_who_does_not_score_a_prompt_does_not_answer_it() -> None:
    found = ask(
        {"a": FakeTeacher(), "b": FakeTeacher()},
        teachers_of=lambda sample: ["a"] if sample == DRAFTS[0].sample_id else ["b"],
    )
    assert found == {"a": {0: backwards(0)}, "b": {1: backwards(1)}}


def test_a_teacher_that_fails_is_left_out() -> None:
    assert list(ask({"a": Mute(), "b": FakeTeacher()})) == ["b"]
