"""Control of a running job through its run directory: who asks, and the job that answers (floor F2).

    request = scale(directory, samplers=3)
    status = await_target(directory, request, timeout_s=60)

The request is a file, replaced whole; the job looks at it about once a second (`Panel`) and shows in its status which
request it has answered.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from gkd_dist.config.base import MAX_REPLICAS
from gkd_dist.config.load import load_run_config
from gkd_dist.config.models import SamplerConfig, TeacherConfig
from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError, DeadlineError, RunError, UserError
from gkd_dist.runs.attempts import read_attempts
from gkd_dist.runs.documents import Document, read_document, read_intact, write_document
from gkd_dist.runs.lock import Holder, holder_of
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.runs.status import Alike, Status, alike

logger = logging.getLogger(__name__)

_POLL_S = 0.2


class Target(Document):
    """Replicas that are asked for; what is left out stays as it is."""

    request_id: str = Field(min_length=1, max_length=64)
    samplers: int | None = Field(default=None, ge=1)
    teachers: dict[str, int] = Field(default_factory=dict)
    """By name."""

    @property
    def roles(self) -> dict[str, int]:
        """`samplers` and `teachers.NAME`, as in `Status.role`."""
        samplers = {} if self.samplers is None else {"samplers": self.samplers}
        return samplers | {f"teachers.{name}": number for name, number in self.teachers.items()}


def require_running(directory: RunDirectory) -> Holder:
    """The process that works on the run.

    Raises:
        RunError: none does; says what to do instead.
    """
    holder = holder_of(directory.lock)
    if holder is not None:
        return holder
    if directory.is_finished:
        raise RunError(f"{directory.path}: this run is finished; `gkd run` starts another one")
    attempts = read_attempts(directory.attempts)
    how = f" (attempt {attempts[-1].number}: {attempts[-1].how or 'killed'})" if attempts else ""
    raise RunError(f"{directory.path}: this run is not running{how}; the command that started it goes on with it")


def scale(
    run: RunDirectory | Path | str, *, samplers: int | None = None, teachers: int | Mapping[str, int] | None = None
) -> Target:
    """Ask a running job for other numbers of replicas; returns at once.

    Args:
        run: its run directory.
        teachers: of every teacher, or by the teachers' names.

    Raises:
        RunError: it does not run.
        ConfigError: a number outside of min_replicas and max_replicas, or a teacher that it does not have.
    """
    directory = run if isinstance(run, RunDirectory) else RunDirectory.find(str(run), Path())
    require_running(directory)
    config = load_run_config(str(directory.config))
    if isinstance(teachers, Mapping):
        wanted = dict(teachers)
    else:
        wanted = {} if teachers is None else dict.fromkeys(config.named_teachers, teachers)
    if problems := target_problems(config, samplers, wanted):
        raise ConfigError(problems)
    waiting = _unanswered(directory)
    request = Target(
        request_id=uuid.uuid4().hex,
        samplers=samplers if samplers is not None or waiting is None else waiting.samplers,
        teachers={**(waiting.teachers if waiting else {}), **wanted},
    )
    write_document(directory.target, request)
    return request


def target_problems(config: RunConfig, samplers: int | None, teachers: Mapping[str, int]) -> list[str]:
    """What the configuration of a run has against these numbers of replicas, one line each."""
    if samplers is None and not teachers:
        return ["nothing to scale; give a number of samplers or of teachers"]
    if config.cluster.mode == "local":
        return ["cluster.mode=local keeps its replicas in one process; only runs with cluster.mode=ray can be scaled"]
    problems = [] if samplers is None else _out_of_bounds("sampler", config.sampler, samplers)
    for name, number in teachers.items():
        if name not in config.named_teachers:
            problems.append(f"no teacher is called {name}; this run has {', '.join(config.named_teachers)}")
        else:
            problems += _out_of_bounds(config.key_of(name), config.named_teachers[name], number)
    return problems


def await_target(
    directory: RunDirectory,
    request: Target,
    *,
    timeout_s: float,
    say: Callable[[str], object] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Status:
    """Wait until as many replicas serve as `request` asks for.

    Args:
        say: told once of everything that keeps some of them from serving, in one line for all that it is said of.

    Raises:
        RunError: the run refused it, ended, or was asked for something else meanwhile.
        DeadlineError: it takes longer than `timeout_s`; the run goes on towards the target.
    """
    deadline = clock() + timeout_s
    told: dict[tuple[str, str, str], set[int]] = {}
    while True:
        status = read_intact(directory.status, Status)
        if status is not None and status.request_id == request.request_id:
            if status.problem is not None:
                raise RunError(status.problem)
            if _has_converged(status, request):
                return status
            for name, group in _problems(status, request):
                known = told.setdefault((name, group.state, group.problem), set())
                if not known.issuperset(group.slots):
                    known.update(group.slots)
                    say(f"{name} {group}")
        require_running(directory)
        newest = read_document(directory.target, Target)
        if newest is not None and newest.request_id != request.request_id:
            raise RunError("another request took the place of this one; see `gkd status`")
        if clock() >= deadline:
            raise DeadlineError(f"not there after {timeout_s:g} s: {_missing(status, request)}; the run goes on trying")
        sleep(_POLL_S)


class Panel:
    """The side of the job: reads requests and shows the status.

    Args:
        apply: sets the targets of the pools; a UserError from it is the answer to who asked.
        status: the job now, without `request_id` and `problem`.
    """

    def __init__(
        self, directory: RunDirectory, *, apply: Callable[[Target], None], status: Callable[[], Status]
    ) -> None:
        self._directory = directory
        self._apply = apply
        self._status = status
        self._answered: str | None = None
        self._problem: str | None = None
        self._trouble: list[str] = []

    async def attend(
        self, *, interval_s: float = 1.0, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        """Answer and show, for ever; cancelled, it shows once more how the job was then."""
        try:
            while True:
                await self.turn()
                await sleep(interval_s)
        finally:
            with suppress(OSError):
                write_document(self._directory.status, self._now())

    async def turn(self) -> None:
        """Answer a new request, if there is one, and show the status.

        Files are read and written in a thread: a slow disk does not hold up the loop, and one that fails does not end
        the run.
        """
        trouble = []
        for act in (self._listen, self._show):
            try:
                await act()
            except (OSError, RunError) as error:
                trouble.append(str(error))
        if trouble and trouble != self._trouble:
            logger.warning("run control: %s", "; ".join(trouble))
        self._trouble = trouble

    async def _listen(self) -> None:
        target = await asyncio.to_thread(read_document, self._directory.target, Target)
        if target is not None and target.request_id != self._answered:
            self._answer(target)

    async def _show(self) -> None:
        await asyncio.to_thread(write_document, self._directory.status, self._now())

    def _now(self) -> Status:
        return self._status().model_copy(update={"request_id": self._answered, "problem": self._problem})

    def _answer(self, target: Target) -> None:
        self._problem = None
        try:
            self._apply(target)
        except UserError as error:
            self._problem = str(error)[:2000]
        self._answered = target.request_id


def _unanswered(directory: RunDirectory) -> Target | None:
    """A request that the job has not seen yet: a new one takes its place and must not drop it."""
    target, status = read_intact(directory.target, Target), read_intact(directory.status, Status)
    return None if target is None or (status and status.request_id == target.request_id) else target


def _out_of_bounds(key: str, role: SamplerConfig | TeacherConfig, number: int) -> list[str]:
    low, high = role.min_replicas or 1, role.max_replicas or MAX_REPLICAS
    if type(number) is not int:  # from Python
        return [f"{key}: the number of replicas must be a whole number, got {number!r}"]
    if low <= number <= high:
        return []
    keys = f"{key}.min_replicas, {key}.max_replicas"
    return [f"{key}: {number} replicas; this run allows between {low} and {high} ({keys})"]


def _has_converged(status: Status, request: Target) -> bool:
    roles = {name: status.role(name) for name in request.roles}
    return all(
        role is not None and role.target == request.roles[name] and role.has_converged for name, role in roles.items()
    )


def _problems(status: Status, request: Target) -> list[tuple[str, Alike]]:
    """What keeps the roles of `request` from their numbers, by role."""
    roles = {name: status.role(name) for name in request.roles}
    return [
        (name, group)
        for name, role in roles.items()
        if role is not None
        for group in alike(role.slots)
        if group.problem
    ]


def _missing(status: Status | None, request: Target) -> str:
    if status is None or status.request_id != request.request_id:
        return "the run has not answered"
    parts = []
    for name, number in request.roles.items():
        role = status.role(name)
        if role is None:
            continue
        others = ", ".join(map(str, alike(slot for slot in role.slots if slot.state != "healthy")))
        parts.append(f"{name} {role.num_serving} of {number}" + (f" ({others})" if others else ""))
    return ", ".join(parts)
