"""Means over seeds, intervals, claims and rankings, on numbers whose answers are known."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gkd_dist.experiments.cells import Cell, cells, difference, mean_interval
from gkd_dist.experiments.claims import judge, rank
from gkd_dist.experiments.measurements import NUM_RESAMPLES
from gkd_dist.experiments.series import panels
from gkd_dist.experiments.spec import Claim, Experiment, Plot, Ranking
from tests.measured_rows import NUM_ROWS, measured, scores


def table(shifts: Mapping[str, float], seeds: int = 3) -> list[Cell]:
    found = [
        measured(scores(shift, 10 * number + seed), {"size": "small", "method": method, "seed": str(seed)})
        for number, (method, shift) in enumerate(shifts.items())
        for seed in range(seeds)
    ]
    return cells(found)


def claim(above: str, below: str | dict[str, Any]) -> Claim:
    sides = {"above": {"method": above}, "below": {"method": below} if isinstance(below, str) else below}
    return Claim.model_validate({"text": "a > b", "metric": "score", "per": ["size"], **sides})


def test_seeds_become_one_cell_with_their_mean() -> None:
    (cell,) = table({"gkd": 1.0})
    assert list(cell.by_seed) == ["0", "1", "2"]
    assert cell.value == pytest.approx(np.mean([scores(1.0, seed).mean() for seed in range(3)]))
    assert cell.place == {"size": "small", "method": "gkd", "stage": "distil", "evaluation": "greedy"}


def test_the_interval_of_one_seed_is_that_of_its_rows() -> None:
    rows = scores(0.0, 1)
    (cell,) = cells([measured(rows, {"method": "gkd", "seed": "0"})])
    # Normal approximation of the mean of 400 rows; the percentile bootstrap of 1,000 agrees within a tenth of it.
    half = 1.96 * rows.std() / np.sqrt(len(rows))
    assert cell.interval.high - cell.interval.low == pytest.approx(2 * half, rel=0.1)
    assert cell.interval.low < cell.value < cell.interval.high


def test_seeds_that_differ_widen_the_interval() -> None:
    rows = scores(0.0, 1)
    alike = cells([measured(rows, {"method": "gkd", "seed": str(seed)}) for seed in range(3)])[0].interval
    apart = cells([measured(rows + seed, {"method": "gkd", "seed": str(seed)}) for seed in range(3)])[0].interval
    assert apart.high - apart.low > 3 * (alike.high - alike.low)


def test_a_small_difference_is_seen_because_it_is_paired() -> None:
    over_seeds = table({"a": 0.03, "b": 0.0})
    (finding,) = judge([claim("a", "b")], over_seeds)
    assert finding.verdict == "holds"
    assert finding.difference is not None
    assert finding.difference.value == pytest.approx(0.03, abs=0.01)
    first, second = (cell.interval for cell in over_seeds)
    assert first.low < second.high  # unpaired, it would be lost in the rows
    assert judge([claim("b", "a")], over_seeds)[0].verdict == "reversed"
    assert (finding.num_seeds, finding.num_rows, finding.place) == (3, NUM_ROWS, {"size": "small"})


def test_no_difference_stays_undecided() -> None:
    assert judge([claim("a", "b")], table({"a": 0.0, "b": 0.0}))[0].verdict == "undecided"


def test_what_was_not_measured_is_said_and_what_is_not_clear_too() -> None:
    assert judge([claim("a", "lost")], table({"a": 1.0}))[0].verdict == "not measured"
    assert judge([claim("lost", "gone")], table({"a": 1.0}))[0].verdict == "not measured"
    assert judge([claim("a", {"stage": "distil"})], table({"a": 1.0, "b": 0.0}))[0].verdict == "ambiguous"


def test_one_side_without_the_axis_is_compared_everywhere() -> None:
    rows = scores(0.0, 1)
    found = cells(
        [
            measured(rows + 1, {"size": "small", "method": "a"}),
            measured(rows - 1, {"size": "large", "method": "a"}),
            measured(rows, {}, stage="teacher"),
        ]
    )
    verdicts = {each.place["size"]: each.verdict for each in judge([claim("a", {"stage": "teacher"})], found)}
    assert verdicts == {"small": "holds", "large": "reversed"}


def test_a_ranking_puts_the_highest_first() -> None:
    ranking = Ranking.model_validate({"title": "best", "metric": "score", "per": ["size"]})
    (ranked,) = rank([ranking], table({"a": 0.0, "b": 2.0, "c": 1.0}))
    assert [cell.place["method"] for cell in ranked.cells] == ["b", "c", "a"]
    assert ranked.place == {"size": "small"}


def test_an_interval_holds_95_of_100_resamples() -> None:
    found = mean_interval([500.0], [np.arange(1000.0)])
    assert (found.low, found.high) == pytest.approx((24.975, 974.025))


def test_without_rows_the_interval_is_that_of_student() -> None:
    """t(0.975, 2 degrees) = 4.30265 from a table; the values 1, 2, 6 have mean 3 and standard error sqrt(7/3)."""
    found = mean_interval([1.0, 2.0, 6.0], [np.full(NUM_RESAMPLES, value) for value in (1.0, 2.0, 6.0)])
    half = 4.30265 * np.sqrt(7 / 3)
    assert (found.low, found.value, found.high) == pytest.approx((3 - half, 3, 3 + half), rel=1e-5)


@pytest.mark.parametrize("row_spread", [0.0, 0.05])
def test_where_nothing_differs_three_seeds_decide_one_claim_in_twenty(row_spread: float) -> None:
    """Three differences agree in sign one time in four; that alone decides nothing."""
    generator, decided, num_claims = np.random.default_rng(3), 0, 1000
    for _ in range(num_claims):
        shift = generator.normal(0, row_spread)  # of the rows that the test set happens to have
        seeds = generator.normal(shift, 0.05, 3)
        rows = generator.normal(0, row_spread, NUM_RESAMPLES)
        found = mean_interval([*map(float, seeds)], [seed + rows for seed in seeds])
        decided += not found.low <= 0 <= found.high
    # Three standard errors of a share of 1,000; the two margins together are never less careful than one.
    assert decided / num_claims < 0.05 + 3 * np.sqrt(0.05 * 0.95 / num_claims)
    assert decided / num_claims > (0.05 - 3 * np.sqrt(0.05 * 0.95 / num_claims) if row_spread == 0 else 0.0)


def one(method: str, by_seed: Mapping[str, float]) -> Cell:
    found = [measured(np.full(10, value), {"method": method, "seed": seed}) for seed, value in by_seed.items()]
    return cells(found)[0]


def test_differences_are_of_the_seeds_that_both_have() -> None:
    above = one("a", {"0": 5.0, "1": 7.0, "2": 90.0})
    found = difference(above, one("b", {"2": 80.0, "1": 4.0, "3": -50.0}))
    assert found is not None
    assert (found.seeds, found.above, found.below) == (("1", "2"), 48.5, 42.0)
    assert found.interval.value == pytest.approx((3 + 10) / 2)
    assert difference(above, one("b", {"8": 1.0})) is None
    (finding,) = judge([claim("a", "b").model_copy(update={"per": ()})], [above, one("b", {"8": 1.0})])
    assert finding.verdict == "not measured"


def test_a_single_shared_seed_decides_nothing() -> None:
    (finding,) = judge([claim("a", "b")], table({"a": 1.0, "b": 0.0}, seeds=1))
    assert (finding.verdict, finding.num_seeds) == ("undecided", 1)
    assert finding.difference is not None
    assert finding.difference.low > 0  # of the rows alone


def plot(**changes: Any) -> Plot:
    return Plot.model_validate({"kind": "lines", "title": "t", "metric": "score", "x": "method", **changes})


AXES = {
    "title": "t",
    "axes": {"size": ["small", "large"], "method": {"b": {"title": "Bee"}, "a": None}, "lambda": [0, 0.5, 1]},
    "stages": {"distil": {"recipe": "tiny"}},
}


def test_points_stand_in_the_order_of_the_axis_with_its_titles() -> None:
    experiment = Experiment.model_validate(AXES)
    (panel,) = panels(plot(panels="size"), experiment, table({"a": 0.0, "b": 2.0}))
    (line,) = panel.lines
    assert [(point.label, point.x) for point in line.points] == [("Bee", 0.0), ("a", 1.0)]
    assert panel.label == "small"


def test_numbers_of_an_axis_are_its_places() -> None:
    found = cells([measured(scores(0, 1), {"lambda": value}) for value in ("1", "0", "0.5")])
    (panel,) = panels(plot(x="lambda"), Experiment.model_validate(AXES), found)
    assert [point.x for point in panel.lines[0].points] == [0, 0.5, 1]


def test_a_plot_can_show_differences_and_a_reference() -> None:
    rows = scores(0.0, 1)
    found = cells(
        [
            measured(rows + 2, {"size": "small", "method": "a", "seed": "0"}),
            measured(rows, {"size": "small"}, stage="init"),
            measured(rows - 9, {"size": "large"}, stage="init"),
            measured(rows + 5, {}, stage="teacher"),
        ]
    )
    settings = {"relative_to": {"stage": "init"}, "reference": {"stage": "teacher"}, "where": {"stage": "distil"}}
    (panel,) = panels(plot(panels="size", **settings), Experiment.model_validate(AXES), found)
    (point,) = panel.lines[0].points
    assert point.y.value == pytest.approx(2)
    assert point.y.high - point.y.low < 1e-9  # the same rows on both sides, and a single seed
    assert panel.reference == pytest.approx(5 + rows.mean())


def test_a_frontier_has_a_metric_on_each_axis() -> None:
    labels = {"size": "small", "method": "a"}
    found = cells([measured(scores(0, 1), labels), measured(scores(7, 2), labels, metric="self_bleu")])
    (panel,) = panels(plot(kind="frontier", x_metric="self_bleu"), Experiment.model_validate(AXES), found)
    (point,) = panel.lines[0].points
    assert point.x == pytest.approx(scores(7, 2).mean())
    assert point.y.value == pytest.approx(scores(0, 1).mean())
