"""Everything the parts of a run are made from (floor F5)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gkd_dist.build.learner import make_learner
from gkd_dist.build.reward import make_reward
from gkd_dist.build.sampler import make_sampler
from gkd_dist.build.teacher import make_teacher
from gkd_dist.config.run import RunConfig
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Journal, Learner, Metrics, Reward, Sampler, Teacher
from gkd_dist.learners.seat import RankSeat
from gkd_dist.types import Trajectory


@dataclass(frozen=True)
class Blueprint:
    """Everything the engines are made from; pickles, so that an actor can build its part itself."""

    config: RunConfig
    student: Path
    teachers: Mapping[str, Path]
    """Folder of each teacher, by its name in the configuration."""
    pad_token_id: int
    num_ids: int
    """Real ids that student and teacher share."""
    run_epoch: str
    golden: tuple[Trajectory, ...]
    """What teachers are checked with, from `data.golden`."""
    reward_model: Path | None = None
    """Folder of the reward's classifier, where it has one."""

    def make_sampler(self) -> Sampler:
        return make_sampler(self)

    def make_teacher(self, name: str) -> Teacher:
        """The teacher of that name in the configuration."""
        return make_teacher(self, name)

    def make_learner(self, restart: int = 0, seat: RankSeat | None = None) -> Learner:
        """
        Args:
            restart: how many learners of this start of the run were before it.
            seat: among several ranks.
        """
        return make_learner(self, restart, seat)

    @asynccontextmanager
    async def journal(self, folder: Path) -> AsyncIterator[Journal | None]:
        """What keeps scored sequences in `folder`, inside of the fleet's block; None where none is asked for."""
        if not self.config.checkpoint.journal:
            from gkd_dist.replay.journal import Journal as Files

            # What a former start kept is void after the next step; a later start would not see that.
            await asyncio.to_thread(Files(folder).keep_only, ())
            yield None
        elif self.config.cluster.mode == "local":
            from gkd_dist.local import local_journal

            async with local_journal(folder) as journal:
                yield journal
        else:
            from gkd_dist.distributed import ray_journal

            async with ray_journal(folder, self.config.cluster) as journal:
                yield journal

    def make_reward(self) -> Reward:
        """Only where the configuration has a reward."""
        return make_reward(self)

    def base_name(self) -> str:
        """What saved adapters call their base model: its hub name, or the folder here."""
        from gkd_dist.models.packaged import is_local

        student = self.config.student
        on_hub = not is_local(student.model) and student.prune is None
        return student.model if on_hub else str(self.student.resolve())

    @property
    def reward_is_model(self) -> bool:
        """Whether the reward is heavy enough for a process of its own."""
        return self.reward_model is not None

    def fleet(
        self,
        metrics: Metrics | None = None,
        *,
        say: Callable[[str], None] = lambda _: None,
        when_connected: Callable[[], None] = lambda: None,
    ) -> AbstractAsyncContextManager[Fleet]:
        """All parts, in this process or as Ray actors, closed with the block.

        Args:
            metrics: told about replicas; None: nobody is.
            say: told in one line of every part that is up, and what one waits for.
            when_connected: takes back the signals that Ray has taken for itself.
        """
        if self.config.cluster.mode == "local":
            from gkd_dist.local import local_fleet

            return local_fleet(self, metrics, say)
        from gkd_dist.distributed import ray_fleet

        return ray_fleet(self, metrics, say, when_connected)
