"""benchmarks/scale.py on five actors, and the arithmetic beside it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "scale.py"


def figures(content: Any, *names: str) -> dict[str, Any]:
    for name in names:
        content = content[name]
    return content


def run(result: Path) -> str:
    command = [sys.executable, str(SCRIPT), "calculated", "weak", "--sizes", "5", "--result", str(result)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.timeout(900)  # four processes that import the ring: seconds, but minutes where others have the cores
def test_five_actors_in_one_command_that_keeps_what_is_there(tmp_path: Path) -> None:
    result = tmp_path / "scale.json"
    assert "kept" not in run(result)
    content = json.loads(result.read_text())
    for variant in ("as it is", "tree", "tree, 4 per request"):
        found = figures(content, "weak", variant, "5")
        assert found["trained"] == 40 * found["batch_size"] == 40 * 16
        assert found["trained_twice"] == 0
        assert 0.8 < found["of_ideal"] <= 1.05
        assert max(map(int, found["staleness"])) <= found["max_staleness"]
    assert "weak, tree, 5: kept" in run(result)
    assert json.loads(result.read_text()) == content


@pytest.fixture(scope="module")
def fleets(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("scale_fleets")


def test_the_load_of_a_controller_is_that_of_its_share(fleets: ModuleType) -> None:
    """20 controllers of 500 actors are as busy as one of 500; one of 10,000 twenty times as much."""
    sharded, grouped = fleets.load(fleets.sharded(10_000)), fleets.load(fleets.grouped(10_000))
    assert sharded["controllers"] == 20
    assert sharded["driver"] == pytest.approx(fleets.load(fleets.grouped(500))["driver"], rel=0.01)
    assert grouped["driver"] == pytest.approx(20 * sharded["driver"], rel=0.01)


def test_weights_take_longer_by_the_sampler_but_in_a_tree(fleets: ModuleType) -> None:
    direct = [fleets.load(fleets.as_it_is(size))["weights_on_their_way_s"] for size in (100, 10_000)]
    tree = [fleets.load(fleets.with_tree(size))["weights_on_their_way_s"] for size in (100, 10_000)]
    assert direct[1] == pytest.approx(100 * direct[0], rel=0.01)
    assert tree[1] < 1.2 * tree[0]


def test_the_kept_result_holds_what_the_ring_promises() -> None:
    """No id was trained on twice and nothing was older than its bound, in no case that was simulated."""
    found: list[dict[str, Any]] = []

    def walk(content: Any) -> None:
        if isinstance(content, dict):
            if "trained_twice" in content:
                found.append(content)
            else:
                for each in content.values():
                    walk(each)

    walk(json.loads(SCRIPT.with_suffix(".json").read_text()))
    assert found
    assert not [each for each in found if each["trained_twice"]]
    assert not [each for each in found if max(map(int, each["staleness"])) > each["max_staleness"]]
