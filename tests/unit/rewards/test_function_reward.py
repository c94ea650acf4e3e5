"""A reward function of the user's own: TRL's convention, and everything that can be wrong with one."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gkd_dist.build.reward import make_reward
from gkd_dist.closing import Closing
from gkd_dist.config.reward import RewardConfig
from gkd_dist.errors import ConfigError, DeadlineError, EngineError
from gkd_dist.rewards.function import FunctionReward, check_function, load_function
from gkd_dist.types import Answer

ANSWERS = [Answer("q1", "a b", "a"), Answer("q2", "c", None)]


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """An importable module to put functions into."""
    module = ModuleType("my_rewards")
    sys.modules["my_rewards"] = module
    yield module
    del sys.modules["my_rewards"]


def judge(module: ModuleType, function: Callable[..., Any], *, timeout_s: float = 20, times: int = 1) -> list[float]:
    module.function = function  # type: ignore[attr-defined]

    async def run() -> list[float]:
        reward = FunctionReward("my_rewards:function", timeout_s=timeout_s)
        try:
            return [await reward.judge(ANSWERS) for _ in range(times)][-1]
        finally:
            await reward.close()

    return asyncio.run(run())


def test_lists_are_given_by_keyword_and_in_order(module: ModuleType) -> None:
    seen = {}

    def function(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions, **kwargs)
        return [1, 2]

    assert judge(module, function) == [1.0, 2.0]
    assert seen == {"prompts": ["q1", "q2"], "completions": ["a b", "c"], "references": ["a", None]}


def test_a_function_takes_what_it_names(module: ModuleType) -> None:
    def function(completions: list[str], scale: float = 2.0) -> list[float]:
        return [scale * len(text) for text in completions]

    assert judge(module, function) == [6.0, 2.0]


def test_coroutines_of_all_calls_share_a_loop(module: ModuleType) -> None:
    loops = []

    async def function(completions: list[str], **kwargs: Any) -> list[float]:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return [0.5] * len(completions)

    assert judge(module, function, times=3) == [0.5, 0.5]
    assert len(set(loops)) == 1


@pytest.mark.parametrize(
    "numbers",
    [np.asarray([1, 0], np.float32), torch.tensor([1.0, 0.0]), (True, False), [np.float64(1), torch.tensor(0)]],
)
def test_whatever_is_a_number_counts(module: ModuleType, numbers: Any) -> None:
    assert judge(module, lambda **kwargs: numbers) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (["1", "2"], "returned '1' for completion 0; every reward must be a finite number"),
        ([1.0, None], "returned None for completion 1"),
        ([1.0, float("nan")], "returned nan for completion 1"),
        ([float("inf"), 1.0], "returned inf for completion 0"),
        ([1.0, [2.0]], r"returned \[2.0\] for completion 1"),
        ([1.0, 10**400], "returned 1000.* for completion 1"),
        ([1.0], "returned 1 numbers for 2 completions"),
        ([], "returned 0 numbers for 2 completions"),
        (None, "returned None; it must return a list of numbers"),
        (0.5, "returned 0.5; it must return a list of numbers"),
        (torch.tensor(0.5), r"returned tensor\(0.5000\); it must return a list of numbers"),
        ("12", "returned '12'; it must return a list of numbers"),
        ({"a": 1.0, "b": 2.0}, "returned {'a': 1.0, 'b': 2.0}; it must return a list of numbers"),
    ],
)
def test_a_wrong_result_is_named(module: ModuleType, result: Any, message: str) -> None:
    with pytest.raises(EngineError, match=f"the reward function my_rewards:function {message}"):
        judge(module, lambda **kwargs: result)


@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_function_raises_is_told_in_one_line(module: ModuleType, is_async: bool) -> None:
    def fails(**kwargs: Any) -> list[float]:
        raise ZeroDivisionError("by zero\nin detail")

    async def fails_later(**kwargs: Any) -> list[float]:
        return fails()

    with pytest.raises(EngineError) as caught:
        judge(module, fails_later if is_async else fails)
    assert str(caught.value) == "the reward function my_rewards:function failed: ZeroDivisionError: by zero"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("kind", ["plain", "async", "generator"])
def test_a_function_cannot_end_the_process(module: ModuleType, kind: str) -> None:
    def plain(**kwargs: Any) -> list[float]:
        sys.exit(5)

    async def later(**kwargs: Any) -> list[float]:
        return plain()

    def generator(**kwargs: Any) -> Iterator[float]:
        yield 1.0
        sys.exit(5)

    functions: dict[str, Callable[..., Any]] = {"plain": plain, "async": later, "generator": generator}
    with pytest.raises(EngineError, match="the reward function my_rewards:function failed: SystemExit: 5"):
        judge(module, functions[kind])


def test_a_module_that_ends_the_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ends_the_process.py").write_text("raise SystemExit(5)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="importing ends_the_process failed: SystemExit: 5"):
        load_function("ends_the_process:f")


def test_a_function_that_does_not_return_has_a_deadline(module: ModuleType) -> None:
    async def sleeps(**kwargs: Any) -> list[float]:
        await asyncio.sleep(0.3)
        return [0.0, 0.0]

    with pytest.raises(DeadlineError, match="did not return within 0 s"):
        judge(module, sleeps, timeout_s=0.01)


@pytest.mark.parametrize(
    ("key", "end"), [(None, "make it faster"), ("cluster.x_s", "make it faster, or raise cluster.x_s")]
)
def test_a_deadline_names_the_key_that_it_was_set_by(module: ModuleType, key: str | None, end: str) -> None:
    module.function = lambda completions: threading.Event().wait(0.5)  # type: ignore[attr-defined]

    async def run() -> None:
        async with Closing(FunctionReward("my_rewards:function", timeout_s=0.01, timeout_key=key)) as reward:
            await reward.judge(ANSWERS)

    with pytest.raises(DeadlineError, match=f"within 0 s for 2 completions; {end}$"):
        asyncio.run(run())


def test_the_reward_of_a_run_names_the_key_of_a_run(module: ModuleType) -> None:
    module.function = lambda completions: threading.Event().wait(0.5)  # type: ignore[attr-defined]
    reward = RewardConfig(type="python", function="my_rewards:function")
    cluster = SimpleNamespace(num_gpus_reward=0, request_timeout_s=0.01)
    blueprint: Any = SimpleNamespace(config=SimpleNamespace(reward=reward, cluster=cluster), reward_model=None)

    async def run() -> None:
        async with Closing(make_reward(blueprint)) as made:
            await made.judge(ANSWERS)

    with pytest.raises(DeadlineError, match=r"raise cluster\.request_timeout_s$"):
        asyncio.run(run())


@pytest.mark.parametrize("ends", ["deadline", "close"])
def test_a_coroutine_that_sleeps_for_ever_is_cancelled(module: ModuleType, ends: str) -> None:
    """It neither holds up the next call nor closing, which gives a call that is stuck five seconds."""
    ended = threading.Event()

    async def function(prompts: list[str], completions: list[str]) -> list[float]:
        if prompts[0] == "hang":
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
        return [1.0 for _ in completions]

    module.function = function  # type: ignore[attr-defined]
    begun = threading.Event()

    async def run() -> None:
        reward = FunctionReward("my_rewards:function", timeout_s=1.0 if ends == "deadline" else 60.0)
        hanging = asyncio.create_task(reward.judge([Answer("hang", "a", None)]))
        if ends == "deadline":
            with pytest.raises(DeadlineError):
                await hanging
            assert await reward.judge(ANSWERS) == [1.0, 1.0]
        else:
            assert await asyncio.to_thread(begun.wait, 20)
        await reward.close()
        assert ended.is_set()
        hanging.cancel()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_module:f", "no module named no_such_module"),
        ("json.no_such:f", "no module named json.no_such"),
        ("json:no_such", "no_such in json .* has no such name"),
        ("json:decoder", "decoder in json .* is not a function"),
        ("my_rewards:solution", "it requires solution, but is called by keyword with prompts, completions, references"),
        ("my_rewards:positional", "it requires completions"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_at_start(module: ModuleType, spec: str, message: str) -> None:
    def solution(completions: list[str], solution: list[str], **kwargs: Any) -> list[float]:
        return []

    def positional(completions: list[str], /) -> list[float]:
        return []

    module.solution, module.positional = solution, positional  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=message) as caught:
        load_function(spec)
    assert str(caught.value).startswith("reward.function: ")


def test_a_module_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "local_rewards.py").write_text("def f(completions):\n    return [1.0 for _ in completions]\n")
    (tmp_path / "broken_rewards.py").write_text("def f(:\n")
    (tmp_path / "failing_rewards.py").write_text("raise RuntimeError('no key\\nset')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_function("local_rewards:f")(completions=["a"]) == [1.0]
    with pytest.raises(ConfigError, match="importing broken_rewards failed: SyntaxError"):
        load_function("broken_rewards:f")
    with pytest.raises(ConfigError, match=r"importing failing_rewards failed: RuntimeError: no key$"):
        load_function("failing_rewards:f")


def test_a_function_that_hangs_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    (tmp_path / "hanging_rewards.py").write_text(
        "import threading\ndef f(completions):\n    threading.Event().wait()\n"
    )
    program = """
import asyncio
from gkd_dist.errors import DeadlineError
from gkd_dist.rewards.function import FunctionReward
from gkd_dist.types import Answer
async def work():
    reward = FunctionReward("hanging_rewards:f", timeout_s=0.1)
    try:
        await reward.judge([Answer("q", "a", None)])
    except DeadlineError as error:
        print(error)
    await reward.close()
asyncio.run(work())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=True
    )
    assert "did not return within 0 s" in done.stdout


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completions: 1.0, "returned 1.0; it must return a list of numbers"),
        (lambda completions: [1.0], "returned 1 numbers for 2 completions"),
        (lambda completions: [1.0, None], "returned None for completion 1"),
        (lambda completions: [1 / 0], "failed: ZeroDivisionError"),
    ],
)
def test_a_trial_call_finds_what_is_wrong(module: ModuleType, function: Callable[..., Any], message: str) -> None:
    module.function = function  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=rf"^reward.function: the reward function my_rewards:function {message}"):
        check_function("my_rewards:function", ANSWERS, timeout_s=20)


def test_a_trial_call_that_hangs_is_given_up(module: ModuleType) -> None:
    async def function(completions: list[str]) -> list[float]:
        await asyncio.sleep(0.5)
        return [0.0 for _ in completions]

    module.function = function  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="did not return within"):
        check_function("my_rewards:function", ANSWERS, timeout_s=0.05)
    check_function("my_rewards:function", ANSWERS, timeout_s=20)
