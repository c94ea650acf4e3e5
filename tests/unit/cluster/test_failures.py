"""What a failed call to an actor becomes; no cluster is started."""

import asyncio
import logging
import os
from typing import Any

import pytest
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OwnerDiedError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.exceptions import OutOfMemoryError as KilledForMemory

from gkd_dist.cluster.failures import failure_of
from gkd_dist.cluster.placement import environment_of
from gkd_dist.cluster.proxies import Proxy
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.errors import (
    DeadlineError,
    EngineError,
    LearnerLostError,
    LostTargetsError,
    ModelError,
    OutOfMemoryError,
    RejectedError,
)


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError(
        "SamplerActor.sample", "Traceback of the other side\n  its second line", cause
    ).as_instanceof_cause()


async def fail(error: Exception) -> None:
    raise error


def awaited(error: Exception) -> BaseException:
    with pytest.raises(Exception) as caught:
        asyncio.run(Proxy(None, "sampler 0", 5.0)._await(fail(error), "sample"))
    return caught.value


def test_an_error_raised_on_purpose_arrives_as_it_was_raised_with_the_remote_traceback_as_its_cause() -> None:
    error = task_error(ModelError("no head"))
    found = awaited(error)
    assert type(found) is ModelError
    assert str(found) == "no head"
    assert found.__cause__ is error


@pytest.mark.parametrize("cause", [ValueError("bad\nworse"), TimeoutError("bad\nworse")])
def test_any_other_error_of_a_part_is_one_line_and_the_rest_is_logged(
    caplog: pytest.LogCaptureFixture, cause: Exception
) -> None:
    caplog.set_level(logging.DEBUG)
    found = awaited(task_error(cause))
    assert type(found) in (EngineError, OutOfMemoryError)
    assert str(found) == f"sampler 0 failed to sample: {type(cause).__name__}: bad"
    assert "its second line" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        ObjectLostError("00" * 28, None, ""),
        KilledForMemory("no memory\nmany lines"),
        NodeDiedError("the node died\nmany lines"),
        RayActorError(),
        RayError("first\nsecond"),
    ],
)
def test_every_error_of_ray_is_an_engine_error_of_one_line(error: RayError) -> None:
    found = awaited(error)
    assert type(found) in (EngineError, OutOfMemoryError)
    assert str(found).startswith("sampler 0 ")
    assert found.__cause__ is error


def test_silence_is_a_deadline_error() -> None:
    with pytest.raises(DeadlineError, match="sampler 0 did not sample within"):
        asyncio.run(Proxy(None, "sampler 0", 0.01)._await(asyncio.sleep(5), "sample"))


def test_a_reason_is_never_empty() -> None:
    assert str(failure_of(RayError(""), "learner", "train")) == "learner failed to train: RayError: no reason given"


@pytest.mark.parametrize(
    ("address", "own", "expected"),
    [
        ("local", None, str(os.cpu_count())),
        ("auto", None, None),
        ("auto", "3", "3"),
        ("local", "3", "3"),
    ],
)
def test_threads_of_actors_in_a_joined_cluster_are_not_counted_here(
    monkeypatch: pytest.MonkeyPatch, address: str, own: str | None, expected: Any
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    assert environment_of(ClusterConfig(address=address)).get("OMP_NUM_THREADS") == expected


@pytest.mark.parametrize("error", [ObjectLostError("00" * 28, None, ""), OwnerDiedError("00" * 28, None, "")])
def test_what_is_lost_and_who_died_has_the_name_that_the_caller_gives_it(error: RayError) -> None:
    for each in (error, task_error(error)):
        assert type(failure_of(each, "learner", "train", lost=LostTargetsError)) is LostTargetsError
    assert type(failure_of(RayActorError(), "learner", "train", died=LearnerLostError)) is LearnerLostError


@pytest.mark.fault(49)
def test_a_part_that_was_killed_for_memory_says_so() -> None:
    killed = KilledForMemory("1 worker(s) were killed due to the node running low on memory. 22 GB\nObject store")
    error = failure_of(killed, "sampler 1", "sample")
    assert type(error) is OutOfMemoryError
    assert str(error) == (
        "sampler 1 died while asked to sample: out of memory: 1 worker(s) were killed due to the node running low on "
        "memory. 22 GB"
    )
    assert type(failure_of(killed, "learner", "train", died=LearnerLostError)) is LearnerLostError


def test_a_bug_is_the_requests_and_a_full_disk_is_not() -> None:
    for cause, kind in [(KeyError("x"), RejectedError), (OSError(28, "disk full"), EngineError)]:
        assert type(failure_of(task_error(cause), "teacher 0", "score", unknown=RejectedError)) is kind
