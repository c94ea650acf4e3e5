"""benchmarks/scale.py on a few actors, and the arithmetic beside it."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gkd_dist.simulation.run import simulate

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


def test_two_controllers_share_the_load_that_is_calculated(fleets: ModuleType) -> None:
    """40 actors, the tree, four sequences per request, two controllers: simulated beside the arithmetic."""
    scenario = fleets.fleet(40, weights=fleets.TREE, num_generations=4, num_shards=2, max_steps=12, max_staleness=4)
    outcome, load = simulate(scenario), fleets.load(scenario)

    whole = fleets.load(replace(scenario, num_shards=1))
    assert load["controllers"] == 2
    at_full_speed = outcome.shares["driver"] / outcome.of_ideal
    assert at_full_speed == pytest.approx(whole["driver"] / 2, rel=0.2)
    assert 0.85 < outcome.of_ideal < 1.1
    assert (outcome.num_trained, outcome.num_trained_twice) == (12 * scenario.batch_size, 0)
    assert max(outcome.staleness) <= scenario.max_staleness


def test_a_bound_too_tight_for_the_longest_answers_costs_throughput(fleets: ModuleType) -> None:
    """Every sequence is younger than the bound, whatever it costs."""
    outcomes = [simulate(replace(fleets.with_tree(20), max_staleness=bound, max_steps=8 + bound)) for bound in (1, 4)]
    assert [max(each.staleness) for each in outcomes] == [1, pytest.approx(3, abs=1)]
    assert outcomes[0].of_ideal < 0.6 < 0.85 < outcomes[1].of_ideal
    assert outcomes[0].num_evicted > outcomes[1].num_evicted
    assert not sum(each.num_trained_twice for each in outcomes)


def test_weights_take_longer_by_the_node_but_in_a_tree(fleets: ModuleType) -> None:
    """A node of eight samplers reads 3.4 GB once: ten nodes at 100 actors."""
    direct = [fleets.load(fleets.as_it_is(size))["weights_on_their_way_s"] for size in (100, 10_000)]
    tree = [fleets.load(fleets.with_tree(size))["weights_on_their_way_s"] for size in (100, 10_000)]
    assert direct[0] == pytest.approx(10 * 3.4 / 25)
    assert direct[1] == pytest.approx(100 * direct[0], rel=0.01)
    assert tree[1] < 1.2 * tree[0]
