"""A teacher that is asked about each fixed pair once: what it is asked, and what comes back."""

import asyncio
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.checks import TeacherCheck, Tolerance
from gkd_dist.interfaces import Remembering, Teacher
from gkd_dist.targets import CacheUse, SampledTargets, TeacherTargets
from gkd_dist.teachers.cached import CachedTeacher
from gkd_dist.teachers.fingerprint import code_digest, model_fingerprint, sequences_key
from gkd_dist.teachers.hf_teacher import HfTeacher
from gkd_dist.teachers.score_cache import ScoreCache
from gkd_dist.types import Source, Trajectory
from tests import tiny

SHAPES = [(3, 4), (5, 2), (2, 6), (4, 4), (7, 3)]
STUDENT = tiny.trajectories(SHAPES)
FIXED = [
    replace(each, source=source, behaviour_log_probs=None, versions=None)
    for each, source in zip(
        tiny.trajectories(SHAPES, seed=1), [Source.GROUND_TRUTH, Source.TEACHER] * 2 + [Source.TEACHER], strict=True
    )
]


def says(trajectory: Trajectory) -> SampledTargets:
    return SampledTargets(-trajectory.completion_ids.astype(np.float32))


class Engine:
    """A teacher that notes what it is asked."""

    def __init__(self, *, passes: bool = True, scale: float = 1.0) -> None:
        self.calls: list[list[Trajectory]] = []
        self.num_checks = self.num_pings = 0
        self.closed = False
        self._passes, self._scale = passes, scale

    @property
    def asked(self) -> list[Trajectory]:
        return [trajectory for call in self.calls for trajectory in call]

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets]:
        self.calls.append(list(trajectories))
        return [SampledTargets((says(each).log_probs * self._scale).astype(np.float32)) for each in trajectories]

    async def verify(self) -> TeacherCheck:
        self.num_checks += 1
        return TeacherCheck("itself", 1, 1.0 if self._passes else 0.0, 0.0, 0.0, Tolerance(1, 1))

    async def ping(self) -> None:
        self.num_pings += 1

    async def close(self) -> None:
        self.closed = True


def cached(engine: Engine, folder: Path, fingerprint: str = "teacher") -> CachedTeacher:
    return CachedTeacher(engine, ScoreCache(folder, 1 << 20), lambda: fingerprint)


def score(teacher: CachedTeacher, trajectories: Sequence[Trajectory]) -> None:
    """Ask, and compare every answer with what the engine says."""
    for each, found in zip(trajectories, asyncio.run(teacher.score(trajectories)), strict=True):
        np.testing.assert_array_equal(found.log_probs, says(each).log_probs)


def test_a_second_epoch_asks_for_nothing_and_neither_does_a_second_run(tmp_path: Path) -> None:
    first, second = Engine(), Engine()
    for engine in (first, second):
        teacher = cached(engine, tmp_path)
        for _ in range(2):
            score(teacher, FIXED[:3])
            score(teacher, FIXED[3:])
    assert (len(first.asked), len(second.asked)) == (5, 0)
    assert (teacher.use.num_hits, teacher.use.num_misses) == (10, 0)


def test_what_the_student_wrote_is_always_asked_and_never_kept(tmp_path: Path) -> None:
    engine = Engine()
    teacher = cached(engine, tmp_path)
    for _ in range(2):
        score(teacher, STUDENT)
    assert len(engine.asked) == 2 * len(STUDENT)
    assert (teacher.use.num_hits, teacher.use.num_misses) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_mixed_call_asks_for_what_is_missing_and_keeps_the_order(tmp_path: Path) -> None:
    engine = Engine()
    teacher = cached(engine, tmp_path)
    score(teacher, FIXED[1:3])
    engine.calls.clear()
    score(teacher, [STUDENT[0], FIXED[0], FIXED[1], STUDENT[1], FIXED[2], FIXED[3], STUDENT[2]])
    assert [[each.source is Source.STUDENT for each in call] for call in engine.calls] == [[True] * 3, [False] * 2]
    np.testing.assert_array_equal(engine.calls[1][0].completion_ids, FIXED[0].completion_ids)
    assert (teacher.use.num_hits, teacher.use.num_misses) == (2, 4)


class BatchRounding(Engine):
    """Its last digits depend on what is scored together, as those of matrix products do."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets]:
        self._scale = 1 + 1e-4 * sum(each.num_tokens for each in trajectories)
        return await super().score(trajectories)


@settings(max_examples=30)
@given(known=st.sets(st.sampled_from(range(len(FIXED)))), others=st.lists(st.sampled_from(STUDENT), max_size=2))
def test_an_exact_answer_does_not_depend_on_what_was_known(known: set[int], others: list[Trajectory]) -> None:
    def answers(known: set[int]) -> list[TeacherTargets]:
        with tempfile.TemporaryDirectory() as folder:
            teacher = CachedTeacher(
                BatchRounding(), ScoreCache(Path(folder), 1 << 20), lambda: "teacher", is_exact=True
            )
            asyncio.run(teacher.score([FIXED[index] for index in known]))
            return asyncio.run(teacher.score([*FIXED, *others]))

    for found, alone in zip(answers(known), answers(set()), strict=True):
        np.testing.assert_array_equal(found.log_probs, alone.log_probs)


def test_exact_answers_of_a_real_model_are_the_same_cold_and_warm(tmp_path: Path) -> None:
    shapes = [(3, 8), (5, 12), (2, 20), (7, 3)]  # beside the longer ones, padded, the others are rounded differently
    student, fixed = tiny.trajectories(shapes), tiny.trajectories(shapes, seed=1)
    given = [replace(each, source=Source.GROUND_TRUTH, behaviour_log_probs=None, versions=None) for each in fixed]
    mixed = student[:2] + given
    model = HfTeacher(
        tiny.save_causal(tmp_path / "model", num_layers=3), dtype="float32", transport="hidden", pad_token_id=tiny.PAD
    )
    teacher = CachedTeacher(
        cast(Teacher, model), ScoreCache(tmp_path / "scores", 1 << 20), lambda: "teacher", is_exact=True
    )
    cold, warm = (asyncio.run(teacher.score(mixed)) for _ in range(2))
    beside = asyncio.run(model.score(mixed))
    for one, other in zip(cold, warm, strict=True):
        np.testing.assert_array_equal(one.hidden, other.hidden)
    assert any((one.hidden != other.hidden).any() for one, other in zip(cold, beside, strict=True))


def test_what_the_cache_did_is_told_once_with_the_bytes_of_the_targets(tmp_path: Path) -> None:
    teacher = cached(Engine(), tmp_path)
    assert isinstance(teacher, Remembering)
    score(teacher, [*FIXED[:2], STUDENT[0]])
    score(teacher, FIXED[:3])
    old, new = (sum(says(each).num_bytes for each in part) for part in (FIXED[:2], FIXED[:3]))
    tokens = sum(each.num_tokens for each in FIXED[:2])
    assert teacher.cache_use() == CacheUse(num_hits=2, num_misses=3, hit_bytes=old, miss_bytes=new, hit_tokens=tokens)
    assert teacher.cache_use() == CacheUse()
    score(teacher, FIXED[:1])
    assert teacher.cache_use() == CacheUse(
        num_hits=1, hit_bytes=says(FIXED[0]).num_bytes, hit_tokens=FIXED[0].num_tokens
    )
    assert teacher.use.num_hits == 3


def test_the_same_tokens_are_the_same_pair_whatever_they_are_called(tmp_path: Path) -> None:
    engine = Engine()
    teacher = cached(engine, tmp_path)
    score(teacher, FIXED[:1])
    renamed = replace(FIXED[0], sample_id=FIXED[3].sample_id, source=Source.TEACHER, attempt=2)
    score(teacher, [renamed])
    assert len(engine.asked) == 1
    moved = replace(
        FIXED[0],
        prompt_ids=np.append(FIXED[0].prompt_ids, FIXED[0].completion_ids[:1]),
        completion_ids=FIXED[0].completion_ids[1:],
    )
    score(teacher, [moved])
    assert len(engine.asked) == 2


def test_another_teacher_is_asked_anew(tmp_path: Path) -> None:
    engine = Engine()
    for fingerprint in ("one", "two"):
        score(cached(engine, tmp_path, fingerprint), FIXED)
    assert len(engine.asked) == 2 * len(FIXED)


def test_verify_ping_and_close_reach_the_teacher_itself(tmp_path: Path) -> None:
    engine = Engine()
    teacher = cached(engine, tmp_path)
    score(teacher, FIXED)
    for _ in range(2):
        assert asyncio.run(teacher.verify()).passed
    asyncio.run(teacher.ping())
    asyncio.run(teacher.close())
    assert (engine.num_checks, engine.num_pings, engine.closed) == (2, 1, True)


def test_answers_since_the_last_passed_check_are_dropped_when_one_fails(tmp_path: Path) -> None:
    teacher = cached(Engine(), tmp_path)
    score(teacher, FIXED[:2])
    asyncio.run(teacher.verify())
    broken = cached(Engine(passes=False, scale=1.5), tmp_path)
    asyncio.run(broken.score(FIXED))
    assert not asyncio.run(broken.verify()).passed
    engine = Engine()
    score(cached(engine, tmp_path), FIXED)
    assert len(engine.asked) == 3


class Gated(Engine):
    """Answers about tokens when it is let to, and passes the checks that it is told to."""

    def __init__(self, *checks: bool) -> None:
        super().__init__(scale=1.5)
        self._checks = list(checks)
        self.asked_for, self.gate = asyncio.Event(), asyncio.Event()

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets]:
        self.asked_for.set()
        await self.gate.wait()
        return await super().score(trajectories)

    async def verify(self) -> TeacherCheck:
        self._passes = self._checks.pop(0)
        return await super().verify()


@pytest.mark.parametrize(
    ("before", "meanwhile", "is_kept"),
    [
        ([], [True], True),
        ([], [False], False),
        ([], [False, True], False),
        ([False], [], False),
        ([False], [True], False),
        ([False, True], [], True),
        ([False, False, True], [True], True),
    ],
)
def test_what_is_asked_for_before_a_check_fails_or_until_one_passes_again_is_not_kept(
    tmp_path: Path, before: list[bool], meanwhile: list[bool], is_kept: bool
) -> None:
    async def turn() -> None:
        engine = Gated(*before, *meanwhile)
        teacher = cached(engine, tmp_path)
        for _ in before:
            await teacher.verify()
        scoring = asyncio.create_task(teacher.score(FIXED))
        await engine.asked_for.wait()
        for _ in meanwhile:
            await teacher.verify()
        engine.gate.set()
        await scoring

    asyncio.run(asyncio.wait_for(turn(), 20))
    later = Engine()
    asyncio.run(cached(later, tmp_path).score(FIXED))
    assert len(later.asked) == (0 if is_kept else len(FIXED))


def test_a_check_that_fails_while_answers_are_being_kept_drops_them_all(tmp_path: Path) -> None:
    """The answers are kept on another thread: it is held where it has kept the first of them."""
    kept, go_on = threading.Event(), threading.Event()

    class Held(ScoreCache):
        def keep(self, key: str, targets: TeacherTargets) -> None:
            super().keep(key, targets)
            if not kept.is_set():
                kept.set()
                go_on.wait(20)

    async def turn() -> None:
        teacher = CachedTeacher(Engine(passes=False), Held(tmp_path, 1 << 20), lambda: "teacher")
        scoring = asyncio.create_task(teacher.score(FIXED))
        assert await asyncio.to_thread(kept.wait, 20)
        checking = asyncio.create_task(asyncio.to_thread(asyncio.run, teacher.verify()))
        go_on.set()
        await asyncio.gather(scoring, checking)

    asyncio.run(asyncio.wait_for(turn(), 20))
    assert list(tmp_path.rglob("*.frame")) == []


def test_targets_that_no_model_can_give_are_not_kept(tmp_path: Path) -> None:
    for _ in range(2):
        engine = Engine(scale=float("nan"))
        asyncio.run(cached(engine, tmp_path).score(FIXED[:1]))
        assert len(engine.asked) == 1


def test_a_student_alone_costs_no_fingerprint(tmp_path: Path) -> None:
    def refuse() -> str:
        raise RuntimeError("read the weights")

    teacher = CachedTeacher(Engine(), ScoreCache(tmp_path, 1 << 20), refuse)
    score(teacher, STUDENT)
    with pytest.raises(RuntimeError, match="read the weights"):
        score(teacher, FIXED)


def test_a_fingerprint_changes_with_weights_facts_and_code(tmp_path: Path) -> None:
    one, two = (tiny.save_causal(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two")))
    facts = {"top_k": 4, "code": code_digest()}
    prints = [
        model_fingerprint(one, facts),
        model_fingerprint(two, facts),
        model_fingerprint(one, facts | {"top_k": 5}),
        model_fingerprint(one, facts | {"code": ""}),
    ]
    assert len(set(prints)) == 4
    assert prints[0] == model_fingerprint(one, facts)
    assert len({sequences_key(each, FIXED[:1]) for each in prints}) == 4
