"""Claims about curves, on numbers whose answers are known: what is compared, and what is no curve, or none yet."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gkd_dist.experiments.cells import Cell, cells
from gkd_dist.experiments.claims import judge
from gkd_dist.experiments.frontier import at_equal
from gkd_dist.experiments.measurements import Measurement
from gkd_dist.experiments.places import measured_places
from gkd_dist.experiments.spec import Claim, Experiment
from tests.measured_rows import NUM_ROWS, measured, scores


def curve(
    control: str, points: Mapping[str, tuple[float, float]], seed: str | None = "0", **more: str
) -> list[Measurement]:
    """Of each alpha the reward and the score."""
    found = []
    for alpha, (reward, score) in points.items():
        labels = {"control": control, "alpha": alpha, **more, **({} if seed is None else {"seed": seed})}
        found += [
            measured(np.full(10, reward), labels, metric="reward"),
            measured(score + scores(0.0, 1), labels, metric="score"),
        ]
    return found


CURVES = Claim.model_validate(
    {
        "text": "gkd above rlef",
        "metric": "score",
        "x": "alpha",
        "x_metric": "reward",
        "above": {"control": "gkd"},
        "below": {"control": "rlef"},
    }
)


def test_curves_are_compared_where_both_have_the_same_reward() -> None:
    """At each alpha gkd scores less, because it has more reward there; at equal reward it is 2 above."""
    measurements = []
    for seed in ("0", "1", "2"):
        lift = 0.01 * int(seed)  # seeds differ a little
        gkd = {"0.1": (3.0, 7.0 + lift), "0.5": (5.0, 5.0 + lift), "0.9": (2.0, 8.0 + lift)}
        rlef = {"0.1": (1.0, 7.0), "0.5": (4.0, 4.0), "0.9": (0.0, 8.0)}  # 8 - reward; gkd is 10 - reward
        measurements += [*curve("gkd", gkd, seed), *curve("rlef", rlef, seed)]
    (finding,) = judge([CURVES], cells(measurements))
    assert finding.difference is not None
    assert finding.difference.value == pytest.approx(2.01, abs=1e-6)
    mean = scores(0.0, 1).mean()
    assert (finding.above, finding.below) == pytest.approx((7.01 + mean, 5 + mean))  # rewards from 2 to 4, mean 3
    assert (finding.verdict, finding.num_seeds) == ("holds", 3)


def test_curves_without_a_reward_in_common_are_apart() -> None:
    measurements = curve("gkd", {"0.1": (3.0, 7.0), "0.5": (5.0, 5.0)}) + curve(
        "rlef", {"0.1": (0.0, 7.0), "0.5": (2.0, 4.0)}
    )
    assert judge([CURVES], cells(measurements))[0].verdict == "apart"


HIGH = {"0.1": (3.0, 7.0), "0.5": (5.0, 5.0), "0.9": (2.0, 8.0)}
LOW = {"0.1": (1.0, 7.0), "0.5": (4.0, 4.0), "0.9": (0.0, 8.0)}
SEEDS = ("0", "1", "2")


def curves(**points: Mapping[str, tuple[float, float]]) -> list[Measurement]:
    """Of both controls, three seeds each."""
    return [each for seed in SEEDS for control, own in points.items() for each in curve(control, own, seed)]


def verdicts(measurements: list[Measurement], **changes: Any) -> list[str]:
    claims = [CURVES.model_copy(update=changes)]
    return [each.verdict for each in judge(claims, cells(measurements))]


def test_points_of_two_students_are_no_curve() -> None:
    both = [
        each
        for size in ("small", "large")
        for seed in SEEDS
        for control, own in (("gkd", HIGH), ("rlef", LOW))
        for each in curve(control, own, seed, size=size)
    ]
    assert verdicts(both) == ["ambiguous"]
    assert verdicts(both, per=("size",)) == ["holds", "holds"]
    # Midway each alpha has one student yet, but not all of them the same.
    first = [each for each in both if (each.labels["alpha"] == "0.9") == (each.labels["size"] == "large")]
    assert verdicts(first) == ["ambiguous"]


def test_points_whose_seeds_do_not_meet_are_not_apart() -> None:
    alphas = list(HIGH)
    gkd = [each for seed, alpha in zip(SEEDS, alphas, strict=True) for each in curve("gkd", {alpha: HIGH[alpha]}, seed)]
    assert verdicts(gkd + curves(rlef=LOW)) == ["not measured"]
    assert verdicts(curve("gkd", HIGH, "7") + curves(rlef=LOW)) == ["not measured"]


def test_a_curve_that_lacks_a_point_is_not_measured() -> None:
    two = {alpha: HIGH[alpha] for alpha in ("0.1", "0.5")}
    assert verdicts(curves(gkd=HIGH, rlef=LOW)) == ["holds"]
    assert verdicts(curves(gkd=two, rlef=LOW)) == ["not measured"]
    assert verdicts(curves(gkd=HIGH, rlef={"0.9": LOW["0.9"]})) == ["not measured"]
    rewardless = [
        each
        for each in curves(gkd=HIGH, rlef=LOW)
        if (each.metric, each.labels["control"], each.labels["alpha"]) != ("reward", "gkd", "0.9")
    ]
    assert verdicts(rewardless) == ["not measured"]


def test_a_curve_that_exists_once_stands_against_every_seed() -> None:
    lifted = [
        each for seed in SEEDS for each in curve("gkd", {a: (x, y + int(seed)) for a, (x, y) in HIGH.items()}, seed)
    ]
    (finding,) = judge([CURVES], cells(lifted + curve("rlef", LOW, None)))
    assert finding.difference is not None
    assert finding.difference.value == pytest.approx(3.0, abs=1e-6)
    assert finding.num_seeds == 3


PLAN = {
    "title": "t",
    "axes": {"control": ["gkd", "rlef"], "alpha": ["0.1", "0.5", "0.9"]},
    "seeds": [0, 1, 2],
    "evaluations": {"greedy": {"task": "translation", "data": "test.jsonl"}},
    "stages": {"distil": {"over": ["control", "alpha", "seed"], "recipe": "tiny", "evaluate": ["greedy"]}},
}


def planned_verdict(measurements: list[Measurement], claim: Claim = CURVES, **stage: Any) -> str:
    plan = Experiment.model_validate({**PLAN, "stages": {"distil": {**PLAN["stages"]["distil"], **stage}}})
    (finding,) = judge([claim], cells(measurements), measured_places(plan))
    return finding.verdict


def test_half_of_both_curves_is_not_measured_where_more_is_planned() -> None:
    halves = {name: {alpha: own[alpha] for alpha in ("0.1", "0.5")} for name, own in (("gkd", HIGH), ("rlef", LOW))}
    assert verdicts(curves(**halves)) == ["holds"]  # nothing says that there is to be more
    assert planned_verdict(curves(**halves)) == "not measured"
    assert planned_verdict(curves(gkd=HIGH, rlef=LOW)) == "holds"


def test_what_is_left_out_on_purpose_is_not_waited_for() -> None:
    two = {alpha: HIGH[alpha] for alpha in ("0.1", "0.9")}
    measurements = curves(gkd=two, rlef=LOW)
    assert planned_verdict(measurements) == "not measured"
    assert planned_verdict(measurements, skip=[{"control": "gkd", "alpha": "0.5"}]) == "holds"
    chosen = CURVES.model_copy(update={"above": {"control": "gkd", "alpha": ("0.1", "0.9")}})
    assert planned_verdict(measurements, chosen) == "holds"
    assert planned_verdict(curves(gkd=HIGH, rlef=LOW), chosen) == "holds"


def uncertain_curve(control: str, height: float, spread: float, seed: str) -> list[Measurement]:
    """Points on a line of slope 100; resampled rows move its rewards, gkd's up where rlef's go down."""
    noise = np.random.default_rng(0).normal(0, spread, NUM_ROWS)
    away = (noise - noise.mean()) * (1 if control == "gkd" else -1)
    found = []
    for alpha, reward in {"0": 0.6, "0.5": 0.5, "1": 0.4}.items():
        labels = {"control": control, "alpha": alpha, "seed": seed}
        found += [
            measured(reward + away, labels, metric="reward"),
            measured(np.full(NUM_ROWS, height + 100 * reward), labels, metric="score"),
        ]
    return found


@pytest.mark.parametrize(("spread", "verdict"), [(0.0, "holds"), (1.0, "undecided")])
def test_rewards_of_other_rows_would_compare_other_heights(spread: float, verdict: str) -> None:
    """The rows move the rewards of both curves apart: at slope 100, what was 1 above may as well be below."""
    measurements = []
    for seed in ("0", "1", "2"):
        lift = 0.001 * int(seed)
        measurements += uncertain_curve("gkd", 1 + lift, spread, seed) + uncertain_curve("rlef", 0, spread, seed)
    (finding,) = judge([CURVES], cells(measurements))
    assert finding.difference is not None
    assert finding.difference.value == pytest.approx(1.001, abs=1e-6)
    assert finding.verdict == verdict


def test_every_resample_has_a_common_range_of_its_own() -> None:
    """By hand, for the first resample: straight lines, so the mean height is that in the middle of the range."""
    pairs = {
        control: [
            (
                point(control, alpha, "score", y, [y, y_moved]),
                point(control, alpha, "reward", x, [x, x_moved]),
            )
            for alpha, (x, x_moved, y, y_moved) in own.items()
        ]
        for control, own in {
            "gkd": {"0": (0.0, 1.0, 0.0, 1.0), "1": (4.0, 5.0, 4.0, 7.0)},
            "rlef": {"0": (2.0, 2.0, 0.0, 0.0), "1": (6.0, 9.0, 4.0, 7.0)},
        }.items()
    }
    found = at_equal(pairs["gkd"], pairs["rlef"])
    assert found is not None
    gkd, rlef = (each.by_seed["0"] for each in found)
    assert (gkd.value, rlef.value) == pytest.approx((3.0, 1.0))  # rewards from 2 to 4
    assert (gkd.resampled[0], rlef.resampled[0]) == pytest.approx((3.0, 1.0))
    assert (gkd.resampled[1], rlef.resampled[1]) == pytest.approx((4.75, 1.5))  # from 2 to 5


def test_curves_that_a_resample_draws_apart_are_compared_at_their_nearest_ends() -> None:
    moved = {"gkd": (0.0, 3.0), "rlef": (2.0, 5.0)}
    pairs = {
        control: [
            (point(control, alpha, "score", y, [y]), point(control, alpha, "reward", x, [x + shift]))
            for alpha, x, y in (("0", start, 10.0), ("1", end, 20.0))
        ]
        for (control, (start, end)), shift in zip(moved.items(), (0.0, 2.0), strict=True)
    }
    found = at_equal(pairs["gkd"], pairs["rlef"])
    assert found is not None
    gkd, rlef = (each.by_seed["0"] for each in found)
    assert (gkd.resampled[0], rlef.resampled[0]) == pytest.approx((20.0, 10.0))  # the end at 3, the beginning at 4


def point(control: str, alpha: str, metric: str, value: float, resampled: list[float]) -> Cell:
    labels = {"control": control, "alpha": alpha, "seed": "0"}
    return cells([Measurement("r", "distil", labels, "greedy", metric, value, np.array(resampled), 10)])[0]
