"""What is predicted of a run, beside its simulation."""

import math
from dataclasses import replace

import pytest

from gkd_dist.planning.controller import DriverCosts
from gkd_dist.planning.devices import Device
from gkd_dist.planning.prediction import Prediction, Split, predict
from gkd_dist.planning.search import best_split, groups_of, shared_device
from gkd_dist.planning.workload import Workload
from gkd_dist.simulation.planned import planned_scenario
from gkd_dist.simulation.run import simulate
from tests.planned_works import DEVICE, TEACHER, WORK

LENGTHS = replace(WORK.lengths, completion=400, longest=400, fixed=400)
ALL_OWN = replace(WORK, student_fraction=1.0, lengths=LENGTHS, num_generations=4)
QUICK = DEVICE.model_copy(update={"host_bytes_per_s": 1e12})
"""Weights are no matter here."""
TOLERANCE = 0.1


def simulated_step_s(work: Workload, found: Prediction, device: Device = DEVICE) -> float:
    scenario = planned_scenario(work, device, found, max_steps=6 + 2 * work.max_staleness)
    window = simulate(scenario).window
    return window.seconds * work.batch_size / window.num_sequences


@pytest.mark.parametrize(
    ("num_devices", "batch_size", "max_staleness", "device"),
    [
        (10, 128, 0, DEVICE),
        (10, 128, 1, DEVICE),
        (10, 64, 4, QUICK),
        (50, 256, 0, QUICK),
        (50, 256, 1, DEVICE),
    ],
)
def test_the_predicted_step_is_the_simulated_one(
    num_devices: int, batch_size: int, max_staleness: int, device: Device
) -> None:
    work = replace(ALL_OWN, batch_size=batch_size, max_staleness=max_staleness)
    found = best_split(work, device, num_devices)
    assert found.step_s == pytest.approx(simulated_step_s(work, found, device), rel=TOLERANCE)


def test_calls_of_many_ranks_wait_behind_requests_as_long_as_predicted() -> None:
    """Without the line the step would be predicted 23 % too short."""
    driver = DriverCosts(call_s=8e-3)
    work = replace(ALL_OWN, batch_size=128, max_staleness=4, driver=driver, probe_interval_s=math.inf)
    found = predict(work, QUICK, Split(8, 8, 48), groups_of(work, QUICK))
    assert found.bottleneck == "controller"
    assert found.step_s == pytest.approx(simulated_step_s(work, found, QUICK), rel=TOLERANCE)


def test_rates_are_those_of_the_plan() -> None:
    work = replace(ALL_OWN, max_staleness=4)
    found = best_split(work, DEVICE, 50)
    scenario, parts = planned_scenario(work, DEVICE, found, max_steps=20), found.parts
    limits = scenario.limits_per_s

    assert work.batch_size / limits["teachers"] == pytest.approx(parts.scoring_s)
    assert work.batch_size / limits["learner"] == pytest.approx(
        parts.wire_s + parts.learning.seconds + parts.publishing.gather_s
    )
    weights = scenario.weights
    assert weights.spread_s(weights.num_nodes(scenario.num_samplers)) == pytest.approx(parts.publishing.spread_s)
    assert scenario.sampler.load_s == parts.publishing.load_s
    running = replace(scenario.sampler, max_running=round(parts.sampling.at_once))
    own_s = work.batch_size / (found.split.samplers * running.sequences_per_s(scenario.prompt_tokens))
    assert own_s == pytest.approx(parts.sampling.seconds, rel=0.01)


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"student_fraction": 0.5}, "student_fraction"),
        ({"teachers": ()}, "teachers"),
        ({"teachers": (TEACHER,) * 2}, "teachers"),
    ],
)
def test_what_the_simulation_does_not_know_is_refused(change: dict[str, object], needle: str) -> None:
    work = replace(ALL_OWN, **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=needle):
        planned_scenario(work, DEVICE, best_split(work, DEVICE, 20), max_steps=10)


def test_roles_that_take_turns_are_refused() -> None:
    work = replace(ALL_OWN, micro_batch_tokens=1024)
    with pytest.raises(ValueError, match="shared"):
        planned_scenario(work, DEVICE, shared_device(work, DEVICE), max_steps=10)
