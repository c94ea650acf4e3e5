"""Cases that are measured once and kept."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def module(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("kept_cases")


def measuring(done: list[int]) -> Callable[[], dict[str, Any]]:
    """Counts how often it is asked."""

    def measure() -> dict[str, Any]:
        done.append(1)
        return {"value": len(done)}

    return measure


def test_a_case_is_measured_once_and_kept(module: ModuleType, tmp_path: Path) -> None:
    done: list[int] = []
    for _ in range(2):
        cases = module.KeptCases(tmp_path / "kept.json", {"machine": "here"})
        assert cases.do("weak", "tree", "10", of=("tree", 10), measure=measuring(done))["value"] == 1
    content = json.loads((tmp_path / "kept.json").read_text())
    assert content["machine"] == "here"
    assert content["weak"]["tree"]["10"]["value"] == 1


def test_a_case_of_something_else_and_parts_that_are_asked_for_are_measured_anew(
    module: ModuleType, tmp_path: Path
) -> None:
    done: list[int] = []
    path = tmp_path / "kept.json"
    path.write_text(json.dumps({"weak": {"10": {"value": 0}}}))  # of nobody knows what
    cases, again = module.KeptCases(path, {}), module.KeptCases(path, {}, frozenset(["weak"]))
    assert cases.do("weak", "10", of=1, measure=measuring(done))["value"] == 1
    assert cases.do("weak", "10", of=2, measure=measuring(done))["value"] == 2
    assert again.do("weak", "10", of=2, measure=measuring(done))["value"] == 3
    again.do("strong", "10", of=2, measure=measuring(done))
    assert again.do("strong", "10", of=2, measure=measuring(done))["value"] == 4


def test_what_was_stopped_goes_on_where_it_was(module: ModuleType, tmp_path: Path) -> None:
    done: list[int] = []
    cases = module.KeptCases(tmp_path / "kept.json", {})
    cases.do("weak", "10", of=1, measure=measuring(done))

    def stopped() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cases.do("weak", "100", of=1, measure=stopped)
    cases.do("weak", "10", of=1, measure=measuring(done))
    assert len(done) == 1
    assert cases.do("weak", "100", of=1, measure=measuring(done))["value"] == 2


def test_several_may_measure_for_one_file(module: ModuleType, tmp_path: Path) -> None:
    """Each had read the file before the other one wrote."""
    seen: list[dict[str, Any]] = []
    one = module.KeptCases(tmp_path / "kept.json", {})
    other = module.KeptCases(tmp_path / "kept.json", {}, after=seen.append)

    def meanwhile() -> dict[str, Any]:
        one.do("weak", "10", of=1, measure=dict)
        return {}

    other.do("weak", "100", of=1, measure=meanwhile)
    assert set(json.loads((tmp_path / "kept.json").read_text())["weak"]) == {"10", "100"}
    assert set(seen[0]["weak"]) == {"10", "100"}
