"""Who waits for whom, by a clock that only waiting moves: steps take what the stages allow, and no longer."""

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
overlap = pytest.importorskip("overlap", reason="needs the checkout's benchmarks folder")


@pytest.mark.parametrize("stages_ms", [(40, 20, 30), (20, 40, 30), (30, 20, 60), (30, 30, 30)])
@pytest.mark.parametrize("max_staleness", [0, 1, 4])
def test_stages_overlap_as_far_as_staleness_allows(stages_ms: tuple[int, int, int], max_staleness: int) -> None:
    with asyncio.Runner(loop_factory=overlap.SimulatedLoop) as runner:
        found = runner.run(overlap.turn(stages_ms, max_staleness, 20))
    bound = max(stages_ms) if max_staleness else sum(stages_ms)
    assert bound <= found["mean_ms"] + 1e-6
    assert found["mean_ms"] < bound * (1.10 if max_staleness else 1.001)
    assert max(found["staleness"]) <= max_staleness
    assert found["evicted"] == 0
