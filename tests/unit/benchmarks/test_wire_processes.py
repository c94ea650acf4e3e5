"""Each result of benchmarks/wire.py is of a process with the allocator's settings that it names."""

import subprocess
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gkd_dist.targets import HiddenTargets

SETTINGS = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}


@pytest.fixture(scope="module")
def wire(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("wire")


def test_the_second_result_is_without_the_settings_of_a_run(wire: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> Any:
        seen.append({name: value for name, value in env.items() if name.startswith("MALLOC_")})
        return subprocess.CompletedProcess(command, 0, stdout="{}")

    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")  # also one of the user's own
    monkeypatch.setattr(wire.subprocess, "run", run)
    assert wire.ALLOCATOR == SETTINGS
    wire.measured_in(wire.ALLOCATOR, "all", 1)
    wire.measured_in({}, "cases", 1)
    assert seen == [SETTINGS, {}]


def test_the_floor_is_a_copy_with_the_checks_beside_it(wire: ModuleType) -> None:
    found = wire.floor(1)
    assert set(found["min_ms"]) == {"copy", "signed_maximum", "unsigned_maximum", "checksum"}
    assert found["of_copy"] == pytest.approx(found["min_ms"]["copy"] / sum(found["min_ms"].values()), abs=1e-3)


def test_the_way_of_a_run_is_compared_with_fresh_memory(wire: ModuleType) -> None:
    found = wire.measure([HiddenTargets(np.zeros((1024, 512), np.uint16))], 2)
    ratios = found["encode_times_as_fast_as"]
    assert {"copy, both fresh", "pickle_5, both fresh", "arrow, both fresh"} <= ratios.keys()
    fresh = [found["encode"][name]["min_ms"] for name in ("pickle_5", "ours_fresh")]
    assert ratios["pickle_5, both fresh"]["fastest"] == pytest.approx(fresh[0] / fresh[1], rel=0.1)
