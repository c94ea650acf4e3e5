"""A reward function of the user's own, called as TRL calls its reward functions."""

import asyncio
import importlib
import inspect
import math
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from gkd_dist.closing import Closing
from gkd_dist.errors import ConfigError, DeadlineError, EngineError
from gkd_dist.serial import SerialThread
from gkd_dist.types import Answer

ARGUMENTS = ("prompts", "completions", "references")
"""What a function is given, each a list of texts; references are None where the data has none."""
CLOSE_S = 5.0


class FunctionReward:
    """Implements `interfaces.Reward` with a Python function.

        def brevity(completions, **kwargs):
            return [-len(text) for text in completions]

    It is called by keyword with `prompts`, `completions` and `references`, as far as its signature takes them, and
    returns one finite number per completion. It may be a coroutine function. Calls do not overlap and come from one
    thread of their own; coroutines of all calls share one event loop there. One whose answer nobody waits
    for any more is cancelled.

    Args:
        spec: `package.module:function`.
        timeout_s: a call that takes longer raises DeadlineError.
        timeout_key: where that is configured, for its message; None: nowhere.

    Raises:
        ConfigError: see `load_function`.
    """

    def __init__(self, spec: str, *, timeout_s: float, timeout_key: str | None = None) -> None:
        self._name = f"the reward function {spec}"
        self._function = load_function(spec)
        self._names = _accepted(self._function)
        self._timeout_s = timeout_s
        self._hint = "" if timeout_key is None else f", or raise {timeout_key}"
        self._thread = SerialThread("reward")
        self._runner: asyncio.Runner | None = None
        self._open: set[_Call] = set()

    async def judge(self, answers: Sequence[Answer]) -> list[float]:
        columns = {
            "prompts": [answer.prompt for answer in answers],
            "completions": [answer.completion for answer in answers],
            "references": [answer.reference for answer in answers],
        }
        chosen = {name: column for name, column in columns.items() if name in self._names}
        call = _Call()
        self._open.add(call)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._thread.run(lambda: self._call(call, chosen, len(answers)))
        except TimeoutError:
            raise DeadlineError(
                f"{self._name} did not return within {self._timeout_s:.0f} s for {len(answers)} completions; make it "
                f"faster{self._hint}"
            ) from None
        finally:
            call.give_up()
            self._open.discard(call)

    async def close(self) -> None:
        for call in self._open:
            call.give_up()
        if self._runner is not None:
            with suppress(TimeoutError):  # a call that never ends keeps the thread
                async with asyncio.timeout(CLOSE_S):
                    await self._thread.run(self._runner.close)
        self._thread.close()

    def _call(self, call: "_Call", columns: Mapping[str, list[Any]], num_answers: int) -> list[float]:
        try:
            result = self._function(**columns)
            if inspect.isawaitable(result):
                self._runner = self._runner or asyncio.Runner()
                result = self._runner.run(call.result_of(result))
        except (Exception, SystemExit) as error:  # whose exit code would be that of gkd, without a word
            raise EngineError(f"{self._name} failed: {_told(error)}") from error
        return self._checked(result, num_answers)

    def _checked(self, result: Any, num_answers: int) -> list[float]:
        try:
            values = None if isinstance(result, str | bytes | Mapping) else list(result)
        except TypeError:
            values = None
        except (Exception, SystemExit) as error:  # a generator is called here
            raise EngineError(f"{self._name} failed: {_told(error)}") from error
        if values is None:
            raise EngineError(
                f"{self._name} returned {_shown(result)}; it must return a list of numbers, one per completion"
            )
        if len(values) != num_answers:
            raise EngineError(f"{self._name} returned {len(values)} numbers for {num_answers} completions")
        return [self._number(value, index) for index, value in enumerate(values)]

    def _number(self, value: Any, index: int) -> float:
        try:
            number = float("nan") if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if not math.isfinite(number):
            raise EngineError(
                f"{self._name} returned {_shown(value)} for completion {index}; every reward must be a finite number"
            )
        return number


def load_function(spec: str) -> Callable[..., Any]:
    """The function that `package.module:function` names; modules are also looked for in the current folder.

    Raises:
        ConfigError: the module cannot be imported, has no such function, or the function wants something else than
            `ARGUMENTS`.
    """
    module_name, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: nothing installed is hidden by a file that happens to lie here
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            [
                f"reward.function: no module named {error.name}; install it, or start gkd in the folder that holds it "
                f"(now {os.getcwd()})"
            ]
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigError([f"reward.function: importing {module_name} failed: {_told(error)}"]) from error
    function = getattr(module, name, None)
    if not callable(function):
        found = "is not a function" if hasattr(module, name) else "has no such name"
        raise ConfigError([f"reward.function: {name} in {module_name} ({module.__file__}) {found}; check its spelling"])
    _accepted(function)
    return function


def check_function(spec: str, answers: Sequence[Answer], *, timeout_s: float, timeout_key: str | None = None) -> None:
    """Call the function once, in this process, and raise ConfigError unless it judges `answers` as it will have to."""

    async def judge() -> None:
        async with Closing(FunctionReward(spec, timeout_s=timeout_s, timeout_key=timeout_key)) as reward:
            await reward.judge(answers)

    try:
        asyncio.run(judge())
    except (EngineError, DeadlineError) as error:
        raise ConfigError(
            [
                f"reward.function: {error} (it was tried with {len(answers)} rows of the data, their completions as "
                "answers, empty where a row has none); correct the function"
            ]
        ) from error


def _accepted(function: Callable[..., Any]) -> set[str]:
    """Which of ARGUMENTS the function takes by keyword.

    Raises:
        ConfigError: it requires something else.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(
            [f"reward.function: its arguments are not known ({error}); write a plain function"]
        ) from error
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        names = set(ARGUMENTS)
    else:
        names = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY} & set(
            ARGUMENTS
        )
    unmet = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and (parameter.name not in names or parameter.kind is parameter.POSITIONAL_ONLY)
    ]
    if unmet:
        raise ConfigError(
            [
                f"reward.function: it requires {', '.join(unmet)}, but is called by keyword with "
                f"{', '.join(ARGUMENTS)}; give the others a default, or take **kwargs"
            ]
        )
    return names


class _Call:
    """A call of a coroutine function, which another thread can give up while it waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancel: Callable[[], object] | None = None
        self._is_given_up = False

    async def result_of(self, result: Awaitable[Any]) -> Any:
        """What `result` comes to; cancelled where the call is given up before."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        with self._lock:
            if task is not None:
                self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            if self._is_given_up and task is not None:
                task.cancel()
        try:
            return await result
        finally:
            with self._lock:
                self._cancel = None

    def give_up(self) -> None:
        """Any thread, any number of times; nothing happens to a call that has ended."""
        with self._lock:
            self._is_given_up = True
            if self._cancel is not None:
                self._cancel()


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
