"""Teachers that can verify themselves: real transformers engines, and the faults of mission: each is caught."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from gkd_dist.checks import TeacherCheck
from gkd_dist.divergences import Readout
from gkd_dist.targets import HiddenTargets, TeacherTargets
from gkd_dist.teachers.checked import CheckedTeacher
from gkd_dist.teachers.golden import TOLERANCE, Golden, ask, top_answers
from gkd_dist.teachers.hf_teacher import HfTeacher
from gkd_dist.teachers.readout import load_readout
from gkd_dist.types import Trajectory
from tests import tiny

SEQUENCES = tiny.trajectories([(6, 8), (1, 1), (9, 12)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("teacher"), seed=3)


def engine_of(model: Path, transport: str = "hidden", dtype: str = "float32") -> HfTeacher:
    return HfTeacher(model, dtype=dtype, transport=transport, pad_token_id=tiny.PAD)


def own_answers(engine: HfTeacher) -> Golden:
    own = asyncio.run(ask(engine.own_log_probs, SEQUENCES))
    return Golden(top_answers(SEQUENCES, own, None), "its own logits")


def verify(
    engine: object, golden: Golden | None, readout: Readout | None, dtype: str = "float32", times: int = 1
) -> list[TeacherCheck]:
    teacher = CheckedTeacher(
        engine,
        sequences=SEQUENCES,
        golden=golden,
        load_readout=None if readout is None else lambda: readout,
        tolerance=TOLERANCE[dtype],
    )

    async def checks() -> list[TeacherCheck]:
        return [await teacher.verify() for _ in range(times)]

    return asyncio.run(checks())


class Changed:
    """An engine whose hidden states are not what they were, from some check on."""

    def __init__(self, engine: HfTeacher, change, first_check: int = 0) -> None:
        self._engine, self._change, self._left = engine, change, first_check * len(SEQUENCES)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets]:
        targets = await self._engine.score(trajectories)
        self._left -= 1
        return targets if self._left >= 0 else [HiddenTargets(self._change(item.hidden)) for item in targets]

    async def close(self) -> None:
        await self._engine.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_hidden_states_and_readout_give_the_models_own_log_probs(model: Path, dtype: str) -> None:
    """In bfloat16 too, to 1e-3: the model's own head multiplies the same rounded states in float32."""
    engine = engine_of(model, dtype=dtype)
    (check,) = verify(engine, own_answers(engine), load_readout(model, dtype=dtype), dtype)
    assert check.passed
    assert check.max_gap_nats < 1e-3
    assert check.compared_with == "its own logits"


@pytest.mark.parametrize("transport", ["full", "hidden"])
def test_a_teacher_that_stays_the_same_passes_again_without_golden_answers(model: Path, transport: str) -> None:
    readout = load_readout(model, dtype="float32") if transport == "hidden" else None
    first, second = verify(engine_of(model, transport), None, readout, times=2)
    assert first.passed and second.passed
    assert second.max_gap_nats == 0.0
    assert second.compared_with == "its first answers"


def test_states_from_before_the_final_norm_are_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(model)
    golden = own_answers(engine)
    monkeypatch.setattr(engine._model.model, "norm", torch.nn.Identity())
    (check,) = verify(engine, golden, load_readout(model, dtype="float32"))
    assert not check.passed


@pytest.mark.parametrize("fault", ["head", "scale"])
def test_a_wrong_readout_is_refused(model: Path, fault: str) -> None:
    engine, readout = engine_of(model), load_readout(model, dtype="float32")
    wrong = {"head": replace(readout, weight=readout.weight.flip(0)), "scale": replace(readout, logit_scale=1.05)}
    (check,) = verify(engine, own_answers(engine), wrong[fault])
    assert not check.passed
    assert "compared with its own logits" in str(check)


def test_a_teacher_that_loses_its_weights_is_caught_at_the_next_check(model: Path) -> None:
    """As one that slept and woke without them: its states are zero, and its answers uniform."""
    engine = Changed(engine_of(model), np.zeros_like, first_check=2)
    golden = own_answers(engine._engine)
    first, second, third = verify(engine, golden, load_readout(model, dtype="float32"), times=3)
    assert first.passed and second.passed and not third.passed
    assert third.fault.startswith("it says the same about every token")
    assert third.max_gap_nats > 1.0


def test_a_teacher_that_drifts_is_caught(model: Path) -> None:
    engine = Changed(engine_of(model), lambda hidden: hidden * np.float32(1.01), first_check=1)
    first, second = verify(engine, None, load_readout(model, dtype="float32"), times=2)
    assert first.passed and not second.passed


@pytest.mark.parametrize(("num_wrong", "passed"), [(1, True), (2, True), (3, False)])
def test_answers_that_differ_for_a_moment_are_asked_for_again(model: Path, num_wrong: int, passed: bool) -> None:
    """As from a server whose batch was shared; the last of three attempts decides."""

    class Moody(Changed):
        async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets]:
            self._left -= 1
            targets = await self._engine.score(trajectories)
            wrong = -num_wrong * len(SEQUENCES) <= self._left < 0
            return [HiddenTargets(self._change(item.hidden)) for item in targets] if wrong else targets

    engine = Moody(engine_of(model), lambda hidden: hidden * np.float32(1.01), first_check=1)
    _, second = verify(engine, None, load_readout(model, dtype="float32"), times=2)
    assert second.passed is passed


def test_first_answers_at_fault_are_nothing_to_compare_with(model: Path) -> None:
    """All of three attempts are uniform, then the teacher recovers: it is compared with its sound answers."""

    class Recovering(Changed):
        async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets]:
            self._left -= 1
            targets = await self._engine.score(trajectories)
            return [HiddenTargets(np.zeros_like(item.hidden)) for item in targets] if self._left >= 0 else targets

    engine = Recovering(engine_of(model), np.zeros_like, first_check=3)
    first, second = verify(engine, None, load_readout(model, dtype="float32"), times=2)
    assert first.fault and second.passed


def test_the_readout_is_loaded_for_each_check_and_not_before(model: Path) -> None:
    loads = []
    load = partial(load_readout, model, dtype="float32")
    teacher = CheckedTeacher(
        engine_of(model),
        sequences=SEQUENCES,
        golden=None,
        load_readout=lambda: loads.append(1) or load(),
        tolerance=TOLERANCE["float32"],
    )
    assert loads == []
    asyncio.run(teacher.verify())
    assert loads == [1]


def test_scores_pass_through_untouched(model: Path) -> None:
    engine = engine_of(model)
    teacher = CheckedTeacher(
        engine, sequences=SEQUENCES, golden=None, load_readout=None, tolerance=TOLERANCE["float32"]
    )
    through, direct = asyncio.run(teacher.score(SEQUENCES)), asyncio.run(engine.score(SEQUENCES))
    for one, two in zip(through, direct, strict=True):
        np.testing.assert_array_equal(one.hidden, two.hidden)
