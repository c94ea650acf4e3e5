"""Parts of a run on Ray die, or the driver does: the run heals itself, or the same command goes on with it."""

import json
import signal

import pytest

from gkd_dist.replay.ledger import Ledger, StepEntry
from gkd_dist.runs.events import read_events
from tests.gkd_process import Runs, equal

pytestmark = pytest.mark.ray


@pytest.mark.fault(10)
@pytest.mark.fault(12)
def test_the_learner_dies_in_a_step_and_while_it_publishes(ray: Runs, clean_ray: Runs) -> None:
    """Twice the run starts another one by itself. The weights leave in five buckets; of the last version that the
    second learner makes, no sampler gets one."""
    faults = "learner.after_backward:kill@3;learner.publishing:kill@12"
    process = ray.ends(0, "supervision.max_learner_restarts=2", faults=faults)
    victims = [process.fired(fault) for fault in faults.split(";")]
    assert len({process.pid, *victims}) == 3
    for number in (1, 2):
        assert f"starting another learner ({number} of 2)" in process.said
    assert "(raylet)" not in process.said  # the line above says it already
    assert "sampler 0 up after" in process.said and "learner up after" in process.said
    assert sum(event.kind == "learner" for event in read_events(ray.directory.events)) == 2
    assert equal(ray, clean_ray)
    steps = [entry for entry in Ledger(ray.directory.ledger).entries() if isinstance(entry, StepEntry)]
    assert [entry.step for entry in steps] == list(range(8))
    versions = [(each.versions, entry.step) for entry in steps for each in entry.sequences if each.versions is not None]
    assert all(written.oldest == written.newest == step for written, step in versions)


@pytest.mark.fault(33)
def test_stopped_while_actors_start(ray: Runs) -> None:
    slow = "actor.ready:delay=60@1"
    process = ray.start(faults=slow)
    process.until_fired(slow)
    process.send(signal.SIGTERM)
    assert process.ended() == 143, process.said
    assert process.said.endswith("SIGTERM: stopped before the first step; nothing to save\n")
    assert "Traceback" not in process.said
    assert [path.name for path in ray.output.iterdir()] == []


@pytest.mark.fault(16)
@pytest.mark.fault(17)
@pytest.mark.fault(33)
def test_the_driver_is_killed_with_its_cluster_and_then_stopped(ray: Runs, clean_ray: Runs) -> None:
    """`ended` waits until no actor, no raylet and no GCS of the run is left."""
    pauses = ["learner.after_forward:delay=3@4", "learner.after_forward:delay=3@2"]
    process = ray.start(faults=pauses[0])
    process.until_fired(pauses[0])
    victims = [name for name in ("::SamplerActor", "::LearnerActor", "raylet", "gcs_server") if process.family(name)]
    assert len(victims) == 4
    process.send(signal.SIGKILL)
    assert process.ended() == -signal.SIGKILL

    process = ray.start(faults=pauses[1])
    process.until_fired(pauses[1])
    assert "continuing" in process.said
    process.send(signal.SIGTERM)
    assert process.ended() == 75, process.said
    assert "SIGTERM: stopped with a good checkpoint" in process.said

    assert "continuing" in ray.ends(0).said
    assert equal(ray, clean_ray)


@pytest.mark.fault(6)
def test_all_samplers_are_lost(ray: Runs) -> None:
    """The step before gets a checkpoint, although none was due."""
    rules = ("supervision.max_restarts=0", "supervision.role_loss_grace_s=5", "checkpoint.save_steps=0")
    process = ray.ends(70, *rules, faults="sampler.before_sample:kill@3")
    assert "error: no sampler is left" in process.said
    assert ray.directory.last_checkpoint == 2
    found = json.loads(ray.directory.diagnosis.read_text())
    assert "RoleLostError" in "".join(found["error"])
    assert found["replicas"]["sampler"]["states"] == {"0": "retired"}
    assert found["last_checkpoint"] == 2
    assert [row["row"] for row in found["in_flight"]] == [8, 9, 10, 11]


@pytest.mark.fault(22)
@pytest.mark.slow
def test_a_dead_journal_costs_no_checkpoint(ray: Runs, clean_ray: Runs) -> None:
    pause = "learner.after_forward:delay=3@3"
    process = ray.start(faults=pause)
    process.until_fired(pause)
    (journal,) = process.family("::JournalActor")
    journal.kill()
    assert process.ended() == 0, process.said
    assert "the journal died; another one goes on (1 of 3)" in process.said
    assert ray.directory.last_checkpoint == 8
    assert equal(ray, clean_ray)


@pytest.mark.fault(23)
@pytest.mark.slow
def test_a_learner_that_hangs_is_replaced_at_its_deadline(ray: Runs, clean_ray: Runs) -> None:
    deadlines = (
        "cluster.request_timeout_s=15",
        "supervision.role_loss_grace_s=30",
        "supervision.stall_timeout_s=60",
    )
    process = ray.ends(0, *deadlines, faults="learner.before_train:hang@3")
    assert "learner did not train within 15 s; starting another learner (1 of 1)" in process.said
    assert equal(ray, clean_ray)


@pytest.mark.fault(16)
@pytest.mark.slow
def test_the_head_of_the_cluster_is_lost(ray: Runs, clean_ray: Runs) -> None:
    """The run fails; the same command makes a new cluster."""
    pause = "learner.after_forward:delay=3@4"
    process = ray.start(faults=pause, RAY_gcs_rpc_server_reconnect_timeout_s="5")
    process.until_fired(pause)
    (head,) = process.family("gcs_server")
    head.kill()
    assert process.ended() != 0
    assert "continuing" in ray.ends(0).said
    assert equal(ray, clean_ray)
