"""Learner ranks as Ray actors: the losses of one process, and the end of all when one dies or never comes."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import AutoModelForCausalLM

from gkd_dist.cli import main
from gkd_dist.cluster.placement import FleetPlan, RolePlan, start_fleet
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import DeadlineError, LearnerLostError
from gkd_dist.testing.fakes import FakeSampler, FakeTeacher
from tests import tiny, tiny_runs

CONFIG = ClusterConfig(num_cpus_per_sampler=0, num_cpus_per_teacher=0, num_cpus_learner=0)


RANKS = ("cluster.mode=ray", "learner.num_ranks=2", "cluster.num_cpus_learner=0.25")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    tiny_runs.save_pairs(folder / "pairs.jsonl")
    return {
        "student": tiny.save_causal(folder / "student", seed=1),
        "teacher": tiny.save_causal(folder / "teacher", seed=2, num_layers=3),
        "data": folder / "pairs.jsonl",
    }


def run(models: dict[str, Path], output: Path, *extra: str) -> dict[int, dict[str, Any]]:
    """The last record of every step, of a run on fixed pairs: sampled tokens may differ where rounding decides."""
    extra = ("objective.student_fraction=0", "evaluation.enabled=false", *extra)
    assert main(["run", *tiny_runs.arguments(models, models["data"], output, *extra)]) == 0
    return {record["step"]: record for record in tiny_runs.records(output)}


@pytest.fixture(scope="module")
def alone(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, dict[str, Any]]]:
    """One learner in one process."""
    output = tmp_path_factory.mktemp("alone")
    return output, run(models, output)


def same_student(first: Path, second: Path) -> None:
    """As near as AdamW keeps what float32 sums in another order."""
    parameters = [
        dict(AutoModelForCausalLM.from_pretrained(output / "latest" / "final").named_parameters())
        for output in (first, second)
    ]
    assert parameters[0].keys() == parameters[1].keys()
    for name, value in parameters[0].items():
        assert (parameters[1][name] - value).abs().mean() < 1e-6, name


@pytest.mark.ray
def test_two_ranks_on_ray_give_the_losses_of_one_process(
    models: dict[str, Path], alone: tuple[Path, dict[int, dict[str, Any]]], tmp_path: Path
) -> None:
    """To 1e-5."""
    folder, steps = alone
    found = run(models, tmp_path, *RANKS)
    assert len(steps) == 4
    assert found.keys() == steps.keys()
    for step, record in steps.items():
        for key in ("loss", "grad_norm"):
            assert found[step][key] == pytest.approx(record[key], rel=1e-5)
    same_student(folder, tmp_path)


@pytest.mark.ray
@pytest.mark.fault(10)
def test_a_run_whose_rank_is_killed_goes_on_from_the_parts_of_its_checkpoint(
    models: dict[str, Path],
    alone: tuple[Path, dict[int, dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the last step; the checkpoint is of the second. Losses are those of the run that nothing happened to."""
    folder, steps = alone
    (tmp_path / "witness").mkdir()
    monkeypatch.setenv("GKD_FAULTS", "learner.after_backward:kill@4")
    monkeypatch.setenv("GKD_FAULTS_WITNESS", str(tmp_path / "witness"))
    found = run(models, tmp_path / "run", *RANKS, "checkpoint.save_steps=2")
    assert [path.name for path in (tmp_path / "witness").iterdir()] == ["learner.after_backward.kill.4"]
    printed = capsys.readouterr().out
    assert "starting another learner (1 of 1)" in printed
    assert "going on after step 2" in printed
    for step, record in steps.items():
        assert found[step]["loss"] == pytest.approx(record["loss"], rel=1e-5)
    same_student(folder, tmp_path / "run")


@pytest.mark.ray
def test_the_death_of_a_rank_ends_the_others_that_wait_for_it(tmp_path: Path) -> None:
    def make(_: int, seat: Any) -> Any:  # local functions travel by value: actors cannot import this module
        import asyncio
        import os
        from pathlib import Path

        from gkd_dist.learners.world import RankGroup
        from gkd_dist.testing.fakes import FakeLearner

        class Waiting(FakeLearner):
            """Rank 0 waits for rank 1 in `save`, which stops there."""

            def __init__(self) -> None:
                super().__init__()
                self.world = RankGroup(seat)
                (tmp_path / f"rank-{seat.rank}").write_text(str(os.getpid()))

            async def save(self, path: Path) -> None:
                path.with_name(f"asked-{seat.rank}").touch()
                if seat.rank == 0:
                    await asyncio.to_thread(self.world.everyone, "here")
                else:
                    await asyncio.sleep(3600)

        return Waiting()

    async def scenario() -> list[int]:
        plan = FleetPlan(RolePlan(FakeSampler), {"teacher": RolePlan(FakeTeacher)}, make, 50, num_learner_ranks=2)
        fleet = await start_fleet(plan, CONFIG, SupervisionConfig())
        pids = [int((tmp_path / f"rank-{rank}").read_text()) for rank in range(2)]
        saving = asyncio.ensure_future(fleet.learner.save(tmp_path / "final"))
        await until(lambda: all((tmp_path / f"asked-{rank}").exists() for rank in range(2)))
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(LearnerLostError, match="learner ranks could not save"):
            await asyncio.wait_for(saving, 60)
        await until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
        with pytest.raises(LearnerLostError):
            await fleet.learner.publish()
        return pids

    with ray_session(CONFIG):
        first, second = asyncio.run(scenario())
    assert first != second


@pytest.mark.ray
def test_a_rank_that_never_comes_is_a_deadline(tmp_path: Path) -> None:
    def make(_: int, seat: Any) -> Any:
        import time

        from gkd_dist.learners.world import RankGroup

        if seat.rank == 1:
            time.sleep(3600)
        return RankGroup(seat)

    config = CONFIG.model_copy(update={"startup_timeout_s": 5.0})
    plan = FleetPlan(RolePlan(FakeSampler), {"teacher": RolePlan(FakeTeacher)}, make, 50, num_learner_ranks=2)
    with ray_session(config), pytest.raises(DeadlineError, match=r"learner rank|did not meet"):
        asyncio.run(start_fleet(plan, config, SupervisionConfig()))


async def until(holds: Any, timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.05)
