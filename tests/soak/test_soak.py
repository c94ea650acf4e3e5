"""A minute of random kills, hangs and scale commands: the same work is done as without them."""

from pathlib import Path

import pytest

from tests.soak import machine
from tests.soak.course import num_strikes, run, run_with_faults
from tests.soak.injector import Menu
from tests.soak.verdict import broken_promises, divergence_gap, started_with, still_running

pytestmark = pytest.mark.ray

SEED = 0
STEPS = 300
MENU = Menu(3.0, machine.TARGETS, learner_kills_at=(8.0,))
TOLERANCE = 0.15


@pytest.mark.fault(52)
@pytest.mark.fault(38)
@pytest.mark.timeout(600)  # a minute of faults on an idle machine: shorter, and chance decides how many there are
def test_a_minute_of_faults_leaves_a_run_as_good_as_a_clean_one(tmp_path: Path) -> None:
    inputs = machine.save_models_and_data(tmp_path)
    clean = run(machine.overrides(inputs, tmp_path / "clean", num_steps=STEPS, seed=SEED))
    with machine.cluster() as (address, mark):
        settings = machine.overrides(
            inputs, tmp_path / "faulty", num_steps=STEPS, seed=SEED, **machine.on_cluster(address)
        )
        faulty = run_with_faults(settings, MENU, seed=SEED, last_step=STEPS * 9 // 10)
        assert still_running(faulty.pids) == []
    assert still_running(started_with(machine.MARK, mark)) == []
    assert broken_promises(clean) == broken_promises(faulty) == []
    assert num_strikes(faulty.injected) >= 4
    assert sum(faulty.healed.values()) >= 3
    assert faulty.healed["learner"] == 1
    assert all(gap < TOLERANCE for gap in divergence_gap(clean, faulty).values())
