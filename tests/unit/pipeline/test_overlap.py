"""Who waits for whom, by a clock that only waiting moves: steps take what the stages allow, and no longer."""

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
overlap = pytest.importorskip("overlap", reason="needs the checkout's benchmarks folder")


@pytest.mark.parametrize("stages_ms", overlap.STAGES_MS)
@pytest.mark.parametrize("max_staleness", [0, 1, 4])
def test_stages_overlap_as_far_as_staleness_allows(stages_ms: tuple[int, int, int], max_staleness: int) -> None:
    with asyncio.Runner(loop_factory=overlap.SimulatedLoop) as runner:
        found = runner.run(overlap.turn(stages_ms, max_staleness, 20))
    bound = max(stages_ms) if max_staleness else sum(stages_ms)
    assert bound <= found["mean_ms"] + 1e-6
    assert found["mean_ms"] < bound * (1.10 if max_staleness else 1.001)
    assert max(found["staleness"]) <= max_staleness
    assert found["evicted"] == 0


@pytest.mark.parametrize("stages_ms", overlap.STAGES_MS)
def test_what_a_controller_computes_decides_over_short_stages_alone(stages_ms: tuple[int, int, int]) -> None:
    """4 ms a step, and a millisecond by which each of three waits ends late."""
    step_ms = sum(stages_ms) + 4.0 + 3 * 1.0
    each = {"mean_ms": step_ms, "steps_ms": [step_ms], "stages_took_ms": sum(stages_ms) + 3.0}
    found = overlap.judged(stages_ms, 0, [{**each, "staleness": {0: 8}, "evicted": 0, "cpu_ms_per_step": 4.0}])
    assert found["reached"] is (stages_ms not in overlap.SHORT_MS)


def test_the_fewest_steps_are_enough_for_a_mean() -> None:
    with asyncio.Runner(loop_factory=overlap.SimulatedLoop) as runner:
        found = runner.run(overlap.turn((40, 20, 30), 0, overlap.FEWEST_STEPS))
    assert found["steps_ms"] == [pytest.approx(found["mean_ms"])] == [pytest.approx(90.0)]


@pytest.mark.parametrize("number", range(1, overlap.FEWEST_STEPS))
def test_fewer_steps_are_refused(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["overlap", "--steps", str(number)])
    with pytest.raises(SystemExit) as ended:
        overlap.main()
    assert ended.value.code == 2
    assert f"at least {overlap.FEWEST_STEPS}" in capsys.readouterr().err
