"""What every reward promises, asked of the fake and of all three types."""

import asyncio
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest

from gkd_dist.interfaces import Reward
from gkd_dist.testing.fakes import FakeReward
from gkd_dist.types import Answer
from tests.classifier import save_classifier

T = TypeVar("T")

ANSWERS = [
    Answer("w5 w6 w7", "w8 w9 is 4", "#### 4"),
    Answer("w5", "w9", "#### 9"),
    Answer("", "", "#### 0"),
    Answer("w10 w11", "12", "#### 12"),
]


def make_reward(name: str, folder: Path) -> Reward:
    if name == "fake":
        return FakeReward()
    if name == "answer":
        from gkd_dist.rewards.answer import AnswerReward

        return AnswerReward("number")
    if name == "python":
        from gkd_dist.rewards.function import FunctionReward

        return FunctionReward("contract_rewards:lengths", timeout_s=20)
    from gkd_dist.rewards.entailment import EntailmentReward

    return EntailmentReward(save_classifier(folder), max_batch_size=3, max_length=64)


@pytest.fixture(params=["fake", "answer", "python", "entailment"])
def on(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Runs a coroutine function on one reward of each kind."""
    module = ModuleType("contract_rewards")
    module.lengths = lambda completions: [len(text) for text in completions]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "contract_rewards", module)
    with asyncio.Runner() as runner:
        reward = make_reward(request.param, tmp_path)
        yield lambda work: runner.run(work(reward))
        runner.run(reward.close())


def test_one_finite_number_per_answer(on: Callable) -> None:
    rewards = on(lambda reward: reward.judge(ANSWERS))
    assert [type(value) for value in rewards] == [float] * 4
    assert all(math.isfinite(value) for value in rewards)


def test_an_answer_is_judged_by_itself_and_in_order(on: Callable) -> None:
    """To 1e-5: a classifier's padding changes the order of its sums."""
    together = on(lambda reward: reward.judge(ANSWERS))
    assert len(set(together)) > 1
    for answer, expected in zip(ANSWERS, together, strict=True):
        assert on(lambda reward, answer=answer: reward.judge([answer])) == pytest.approx([expected], abs=1e-5)
    assert on(lambda reward: reward.judge(ANSWERS[::-1])) == pytest.approx(together[::-1], abs=1e-5)


def test_no_answers_have_no_rewards(on: Callable) -> None:
    assert on(lambda reward: reward.judge([])) == []


def test_calls_may_overlap(on: Callable) -> None:
    async def both(reward: Reward) -> list[list[float]]:
        return await asyncio.gather(reward.judge(ANSWERS), reward.judge(ANSWERS[:2]))

    first, second = on(both)
    assert second == pytest.approx(first[:2], abs=1e-5)
