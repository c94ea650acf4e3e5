"""Asking a running job for other numbers of replicas, and its answer."""

import asyncio
from pathlib import Path

import pytest

from gkd_dist.config.load import dump_run_config, load_run_config
from gkd_dist.errors import ConfigError, DeadlineError, RunError, StoppedError
from gkd_dist.runs import control
from gkd_dist.runs.attempts import Attempt
from gkd_dist.runs.control import Panel, Target, await_target, scale
from gkd_dist.runs.documents import MAX_BYTES, read_document, write_document
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.runs.status import RoleStatus, SlotState, SlotStatus, Status, alike

MODELS = (
    "student.model=s", "teacher=null", "teachers.a.model=t", "teachers.b.model=u",
    "objective.combine_teachers=arithmetic",
    "sampler.min_replicas=1", "sampler.max_replicas=4", "teachers.b.max_replicas=2",
    "cluster.mode=ray",
)  # fmt: skip


def made(root: Path, *overrides: str) -> RunDirectory:
    directory = RunDirectory.create(root, "r")
    directory.write_config(dump_run_config(load_run_config("tiny", (*MODELS, *overrides))))
    return directory


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return made(tmp_path)


def slots(*states: SlotState) -> tuple[SlotStatus, ...]:
    return tuple(SlotStatus(slot=number, state=state, pid=100 + number) for number, state in enumerate(states))


class Job:
    """A run whose pools reach their targets at once, but for the slots that are set here."""

    def __init__(self, directory: RunDirectory) -> None:
        self.targets = {"samplers": 1, "a": 1, "b": 1}
        self.samplers: tuple[SlotStatus, ...] | None = None
        self.refusal = ""
        self.applied: list[dict[str, int]] = []
        self.panel = Panel(directory, apply=self.apply, status=self.status)

    def turn(self) -> None:
        asyncio.run(self.panel.turn())

    def apply(self, target: Target) -> None:
        if self.refusal:
            raise ConfigError([self.refusal])
        self.applied.append(target.roles)
        for name, number in target.roles.items():
            self.targets[name.removeprefix("teachers.")] = number

    def status(self) -> Status:
        roles = {
            name: RoleStatus(target=number, slots=slots(*["healthy"] * number)) for name, number in self.targets.items()
        }
        if self.samplers is not None:
            roles["samplers"] = RoleStatus(target=self.targets["samplers"], slots=self.samplers)
        samplers = roles.pop("samplers")
        return Status(
            attempt=1, pid=1, host="h", state="training", step=3, max_steps=9, samplers=samplers, teachers=roles
        )


def test_a_request_is_applied_once_and_its_answer_seen(directory: RunDirectory) -> None:
    with Attempt(directory):
        job = Job(directory)
        job.turn()
        request = scale(directory.path, samplers=3, teachers={"b": 2})
        status = await_target(directory, request, timeout_s=10, sleep=lambda _: job.turn())
        job.turn()
    assert job.applied == [{"samplers": 3, "teachers.b": 2}]
    assert (status.samplers.num_serving, status.teachers["a"].num_serving, status.teachers["b"].num_serving) == (
        3,
        1,
        2,
    )
    assert status.request_id == request.request_id


def test_one_number_is_for_every_teacher(directory: RunDirectory) -> None:
    with Attempt(directory):
        assert scale(directory, teachers=2).roles == {"teachers.a": 2, "teachers.b": 2}


def test_a_request_that_was_not_seen_yet_is_not_lost_behind_the_next(directory: RunDirectory) -> None:
    with Attempt(directory):
        job = Job(directory)
        first = scale(directory, samplers=3)
        second = scale(directory, teachers={"a": 2})
        assert second.roles == {"samplers": 3, "teachers.a": 2}
        with pytest.raises(RunError, match="another request took the place"):
            await_target(directory, first, timeout_s=10)
        job.turn()
        assert scale(directory, teachers={"a": 4}).roles == {"teachers.a": 4}
    assert job.applied == [{"samplers": 3, "teachers.a": 2}]


def test_waiting_goes_on_while_replicas_start_or_drain_and_says_what_is_missing(directory: RunDirectory) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        job.turn()

    with Attempt(directory):
        job = Job(directory)
        request = scale(directory, samplers=2)
        for states in (("healthy", "restarting"), ("healthy", "suspect", "draining")):
            job.samplers = slots(*states)  # type: ignore[arg-type]
            with pytest.raises(DeadlineError, match=rf"not there after 5 s: samplers . of 2 \(slot 1 {states[1]}"):
                await_target(directory, request, timeout_s=5, clock=lambda: now, sleep=sleep)
        job.samplers = slots("healthy", "suspect", "retired")
        job.turn()
        assert await_target(directory, request, timeout_s=5).samplers.num_serving == 2


def test_what_keeps_a_replica_from_serving_is_said_once_and_again_at_the_deadline(directory: RunDirectory) -> None:
    now, said = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        job.turn()

    room = "the cluster has no room for another (CPU: 2 wanted, 0.5 free)"
    with Attempt(directory):
        job = Job(directory)
        request = scale(directory, samplers=2)
        job.samplers = (*slots("healthy"), SlotStatus(slot=1, state="restarting", problem=room))
        with pytest.raises(
            DeadlineError, match=r"slot 1 restarting: the cluster has no room for another \(CPU: 2 wanted"
        ):
            await_target(directory, request, timeout_s=5, say=said.append, clock=lambda: now, sleep=sleep)
    assert said == [f"samplers slot 1 restarting: {room}"]


def test_of_replicas_that_wait_alike_only_more_of_them_are_said_again(directory: RunDirectory) -> None:
    """While they come up one by one, nothing new is to be said."""
    now, said = 0.0, []
    waiting = iter([range(2, 4), range(2, 6), range(3, 6), range(5, 6)])

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        numbers = next(waiting, range(0))
        job.samplers = tuple(
            SlotStatus(slot=number, state="restarting", problem="no room")
            if number in numbers
            else SlotStatus(slot=number, state="healthy", pid=number + 1)
            for number in range(4)
        )
        job.samplers += tuple(SlotStatus(slot=7 + number, state="dead", problem="died") for number in numbers)
        job.turn()

    with Attempt(directory):
        job = Job(directory)
        request = scale(directory, samplers=4)
        await_target(directory, request, timeout_s=50, say=said.append, clock=lambda: now, sleep=sleep)
    assert said == [
        "samplers slots 2-3 (2) restarting: no room",
        "samplers slots 9-10 (2) dead: died",
        "samplers slots 9-12 (4) dead: died",
    ]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([4], "slot 4"), ([2, 3], "slots 2-3 (2)"), ([9, 2, 3, 5, 4, 7], "slots 2-5, 7, 9 (6)")],
)
def test_slots_are_named_by_ranges(numbers: list[int], text: str) -> None:
    (group,) = alike(SlotStatus(slot=number, state="dead") for number in numbers)
    assert group.name == text
    assert str(group) == f"{text} dead"


def test_only_what_is_the_same_in_all_is_said_together() -> None:
    groups = alike(
        [
            SlotStatus(slot=0, state="dead", problem="died"),
            SlotStatus(slot=1, state="dead", restarts=1, problem="died"),
            SlotStatus(slot=2, state="retired", problem="died"),
            SlotStatus(slot=3, state="dead", problem="no room"),
            SlotStatus(slot=4, state="dead", problem="died"),
        ]
    )
    assert [group.slots for group in groups] == [(0, 4), (1,), (2,), (3,)]


def test_a_job_that_does_not_look_is_told_apart(directory: RunDirectory) -> None:
    with Attempt(directory):
        Job(directory).turn()
        with pytest.raises(DeadlineError, match="the run has not answered"):
            await_target(directory, scale(directory, samplers=2), timeout_s=0)


def test_a_refusal_of_the_job_reaches_who_asked(directory: RunDirectory) -> None:
    with Attempt(directory):
        job = Job(directory)
        job.refusal = "the cluster has room for one"
        request = scale(directory, samplers=2)
        job.turn()
        with pytest.raises(RunError, match="the cluster has room for one"):
            await_target(directory, request, timeout_s=5)
        job.refusal = ""
        request = scale(directory, samplers=3)
        job.turn()
        assert await_target(directory, request, timeout_s=5).problem is None


def test_a_run_that_ends_while_one_waits_is_no_endless_wait(directory: RunDirectory) -> None:
    with Attempt(directory):
        request = scale(directory, samplers=2)
    with pytest.raises(RunError, match=r"not running \(attempt 1: done\)"):
        await_target(directory, request, timeout_s=100)


@pytest.mark.fault(39)
@pytest.mark.parametrize(
    ("samplers", "teachers", "problems"),
    [
        (None, None, ["nothing to scale"]),
        (5, None, ["sampler: 5 replicas; this run allows between 1 and 4 (sampler.min_replicas"]),
        (0, {"b": 3}, ["sampler: 0 replicas", "teachers.b: 3 replicas; this run allows between 1 and 2"]),
        (None, {"a": 0}, ["teachers.a: 0 replicas; this run allows between 1 and 10000"]),
        (None, {"a": 10**20}, [f"teachers.a: {10**20} replicas; this run allows between 1 and 10000"]),
        (2.5, {"a": True}, ["sampler: the number of replicas must be a whole number", "teachers.a: the number"]),
        (None, {"c": 1}, ["no teacher is called c; this run has a, b"]),
    ],
)  # fmt: skip
def test_numbers_that_the_run_does_not_allow_are_refused_before_it_sees_them(
    directory: RunDirectory, samplers: int | None, teachers: dict[str, int] | None, problems: list[str]
) -> None:
    with Attempt(directory), pytest.raises(ConfigError) as caught:
        scale(directory, samplers=samplers, teachers=teachers)
    assert len(caught.value.problems) == len(problems)
    assert all(found.startswith(problem) for found, problem in zip(caught.value.problems, problems, strict=True))
    assert not directory.target.exists()


@pytest.mark.fault(39)
def test_a_run_in_one_process_cannot_be_scaled(tmp_path: Path) -> None:
    without_bounds = ("sampler.min_replicas=null", "sampler.max_replicas=null", "teachers.b.max_replicas=null")
    directory = made(tmp_path, "cluster.mode=local", *without_bounds)
    with Attempt(directory), pytest.raises(ConfigError, match=r"cluster.mode=local"):
        scale(directory, samplers=2)


def test_only_a_running_job_can_be_asked(directory: RunDirectory) -> None:
    with pytest.raises(RunError, match="not running; the command that started it goes on"):
        scale(directory, samplers=2)
    with pytest.raises(StoppedError), Attempt(directory):
        raise StoppedError
    with pytest.raises(RunError, match=r"not running \(attempt 1: stopped\)"):
        scale(directory, samplers=2)
    directory.write_summary({})
    with pytest.raises(RunError, match="finished; `gkd run` starts another one"):
        scale(directory, samplers=2)


def test_a_new_attempt_does_not_answer_what_the_former_was_asked(directory: RunDirectory) -> None:
    with Attempt(directory):
        scale(directory, samplers=2)
    with Attempt(directory):
        job = Job(directory)
        job.turn()
        assert job.applied == []


def test_what_is_asked_while_the_engines_start_is_answered_once_they_are_up(directory: RunDirectory) -> None:
    with Attempt(directory):
        scale(directory, samplers=2)
        job = Job(directory)
        job.turn()
        assert job.applied == [{"samplers": 2}]


@pytest.mark.fault(29)
@pytest.mark.fault(30)
@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"request_id": "x", "samplers": "2"}',
        '{"request_id": "x", "samplers": 2.5}',
        '{"request_id": "x", "samplers": 2, "unknown": 1}',
        '{"samplers": 2}',
        '{"request_id": "x", "samplers": NaN}',
        '{"request_id": "x"}' + " " * MAX_BYTES,
        "[" * 100_000,
    ],
)
def test_a_request_that_is_none_changes_nothing(
    directory: RunDirectory, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(directory)
    job.turn()
    directory.target.write_text(text)
    directory.status.unlink()
    for _ in range(3):
        job.turn()
    assert job.applied == []
    assert read_document(directory.status, Status) is not None  # the rest goes on
    assert len(caplog.records) == 1 and "target.json" in caplog.text  # said once
    with pytest.raises(RunError, match="remove"):
        read_document(directory.target, Target)


@pytest.mark.fault(31)
def test_a_status_that_cannot_be_written_does_not_end_the_run(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, document: object) -> None:
        raise OSError(28, "No space left on device")

    job = Job(directory)
    with monkeypatch.context() as patch:
        patch.setattr(control, "write_document", full)
        job.turn()
        job.turn()
    assert len(caplog.records) == 1 and "No space left" in caplog.text
    job.turn()
    assert read_document(directory.status, Status) is not None


def test_a_reader_never_sees_half_a_file(directory: RunDirectory) -> None:
    status = Job(directory).status()
    write_document(directory.status, status)
    with directory.status.open() as before:
        write_document(directory.status, status.model_copy(update={"step": 4}))
        assert Status.model_validate_json(before.read()).step == 3
    assert [path.name for path in directory.status.parent.iterdir()] == ["status.json"]
    again = read_document(directory.status, Status)
    assert again is not None and again.step == 4


def test_the_panel_attends_until_it_is_cancelled(directory: RunDirectory) -> None:
    job = Job(directory)
    intervals: list[float] = []

    async def sleep(seconds: float) -> None:
        intervals.append(seconds)
        if len(intervals) == 3:
            job.targets["a"] = 4  # since the last turn
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(job.panel.attend(sleep=sleep))
    assert intervals == [1.0, 1.0, 1.0]
    last = read_document(directory.status, Status)
    assert last is not None and last.teachers["a"].target == 4
