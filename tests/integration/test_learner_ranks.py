"""Learner ranks as Ray actors: the losses of one process, and the end of all when one dies or never comes."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import AutoModelForCausalLM

from gkd_dist.cli import main
from gkd_dist.cluster.placement import FleetPlan, Role, start_fleet
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import DeadlineError, LearnerLostError
from gkd_dist.testing.fakes import FakeSampler, FakeTeacher
from tests import tiny

CONFIG = ClusterConfig(num_cpus_per_sampler=0, num_cpus_per_teacher=0, num_cpus_learner=0)


@pytest.mark.ray
def test_two_ranks_on_ray_give_the_losses_of_one_process(tmp_path: Path) -> None:
    """To 1e-5, on fixed pairs: sampled tokens may differ where rounding decides between two."""
    tiny.save_causal(tmp_path / "student", seed=1)
    tiny.save_causal(tmp_path / "teacher", seed=2, num_layers=3)
    rows = [{"prompt": f"w{3 + row} w{40 + row}", "completion": f"w7 w8 w{9 + row}"} for row in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(name: str, *extra: str) -> list[dict[str, float]]:
        arguments = [
            f"student.model={tmp_path / 'student'}",
            f"teacher.model={tmp_path / 'teacher'}",
            f"data.path={tmp_path / 'pairs.jsonl'}",
            f"output_dir={tmp_path / name}",
            "learner.learning_rate=1e-3",
            "objective.student_fraction=0",
            "evaluation.enabled=false",
        ]
        assert main(["run", "tiny", *arguments, *extra]) == 0
        lines = (tmp_path / name / "latest" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    alone = run("alone")
    ranks = run("ranks", "cluster.mode=ray", "learner.num_ranks=2", "cluster.num_cpus_learner=0.25")
    assert len(alone) == len(ranks) == 4
    for key in ("loss", "grad_norm"):
        assert [step[key] for step in ranks] == pytest.approx([step[key] for step in alone], rel=1e-5)
    finals = [
        dict(AutoModelForCausalLM.from_pretrained(tmp_path / name / "latest" / "final").named_parameters())
        for name in ("alone", "ranks")
    ]
    for name, value in finals[0].items():
        assert (finals[1][name] - value).abs().mean() < 1e-6, name


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
        plan = FleetPlan(Role(FakeSampler), {"teacher": Role(FakeTeacher)}, make, 50, num_learner_ranks=2)
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
    plan = FleetPlan(Role(FakeSampler), {"teacher": Role(FakeTeacher)}, make, 50, num_learner_ranks=2)
    with ray_session(config), pytest.raises(DeadlineError, match=r"learner rank|did not meet"):
        asyncio.run(start_fleet(plan, config, SupervisionConfig()))


async def until(holds: Any, timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.05)
