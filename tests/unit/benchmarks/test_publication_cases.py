"""Cases of benchmarks/publication.py: what is kept of them, what is compared, and the memory that they need."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def cases(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("publication_cases")


def rounds(total_s: float) -> list[dict[str, float]]:
    return [{"total_s": total_s + more, "cpu_s": total_s, "stall_s": 0.1} for more in (0.0, 1.0)]


def test_ways_that_are_not_measured_again_stay(cases: ModuleType) -> None:
    first = cases.merged({}, {"model": rounds(1.0), "put": rounds(2.0)}, 10**9, {"load_average_before": 0.1})
    both = cases.merged(first, {"engine": rounds(4.0)}, 10**9, {"load_average_before": 9.0})
    assert both["ways"]["model"] == first["ways"]["model"]
    assert [both["ways"][way]["load_average_before"] for way in ("model", "put", "engine")] == [0.1, 0.1, 9.0]
    assert both["ways"]["engine"]["best_gb_per_s"] == 0.25
    assert both["ways"]["engine"]["rounds"] == 2
    assert both["machine"] == {"load_average_before": 9.0}


def test_only_ways_that_took_turns_are_compared(cases: ModuleType) -> None:
    every = {"model": rounds(1.0), "engine": rounds(2.0), "put": rounds(4.0), "copy": rounds(0.5)}
    case = cases.merged({}, every, 10**9, {})
    assert {name: each["wall"] for name, each in case["times_as_fast"].items()} == {
        "model over put": 4.0,
        "model over copy": 0.5,
        "engine over put": 2.0,
        "engine over copy": 0.25,
    }
    later = cases.merged(case, {"engine": rounds(1.0), "put": rounds(2.0)}, 10**9, {})
    assert list(later["times_as_fast"]) == ["model over copy", "engine over put"]


@pytest.mark.parametrize(
    ("size_gb", "receivers", "ways", "fits"),
    [
        (0.5, 2, ("model", "engine", "checkpoint", "put", "copy"), True),
        (2, 1, ("model", "engine", "checkpoint", "put", "copy"), True),
        (2, 2, ("engine", "put"), True),
        (2, 2, ("model", "engine", "checkpoint", "put", "copy"), False),
    ],
)
def test_the_commands_of_the_usage_text_fit_into_23_gb(
    cases: ModuleType,
    size_gb: float,
    receivers: int,
    ways: tuple[str, ...],
    fits: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Memory:
        available = 23 * 10**9

    monkeypatch.setattr(cases.psutil, "virtual_memory", Memory)
    if fits:
        cases.check_memory(int(size_gb * 10**9), receivers, ways)
    else:
        with pytest.raises(SystemExit, match=r"need 2\d\.\d GB of memory, and 23.0 are free"):
            cases.check_memory(int(size_gb * 10**9), receivers, ways)


@pytest.mark.parametrize("num_tensors", [0, 1000])
def test_the_learner_holds_float32_and_every_way_casts(
    num_tensors: int, script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = script("publication_parts")
    learner = parts.SendingLearner(parts.Model(0.1, num_tensors))
    assert not num_tensors or len(learner.weights) == num_tensors
    assert {tensor.dtype for tensor in learner.weights.values()} == {torch.float32}

    class Shell:
        _weights = learner.weights

    put: list[Any] = []
    monkeypatch.setattr(parts.ray, "put", put.append)
    for tensor in learner.weights.values():
        tensor.fill_(3)
    shell: Any = Shell()
    asyncio.run(parts.SendingActor.put_each(shell))
    asyncio.run(parts.SendingActor.write(shell, tmp_path / "weights"))
    written = parts.load_file(tmp_path / "weights")
    published = learner._publisher.publish(list(learner.weights.items()), 0)
    num_bytes = sum(tensor.numel() * 2 for tensor in learner.weights.values())
    assert num_bytes == pytest.approx(0.1e9, rel=0.1)
    assert sum(array.nbytes for array in put) == num_bytes
    assert all((torch.from_numpy(array).view(torch.bfloat16) == 3).all() for array in put)
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    padding = published.manifest.num_bytes - num_bytes  # each tensor begins at a multiple of 64 bytes
    assert 0 <= padding < 64 * len(learner.weights)


def test_milliseconds_are_those_of_a_part(script: Callable[[str], ModuleType]) -> None:
    stall = script("publication_vllm")
    updates = [dict.fromkeys(stall.PARTS, 1.0) | {"load_paused": seconds} for seconds in (0.03, 0.01, 0.05)]
    found = stall.figures(updates)
    assert found["load_paused"] == {"min_ms": 10.0, "median_ms": 30.0, "max_ms": 50.0}
    assert found["publish"]["median_ms"] == 1000.0
