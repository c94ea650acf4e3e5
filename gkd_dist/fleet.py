"""Everything that computes, in one place (floor F2)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gkd_dist.errors import LearnerLostError, plain
from gkd_dist.interfaces import Learner, Replicas, Reward, Sampler, Teacher

logger = logging.getLogger(__name__)


def role_of(teacher: str) -> str:
    """What messages call the replicas of a teacher: `teacher`, or `teacher NAME`."""
    return teacher if teacher == "teacher" else f"teacher {teacher}"


@dataclass
class Fleet:
    """Everything that computes."""

    samplers: Replicas[Sampler]
    teachers: Mapping[str, Replicas[Teacher]]
    """By name in the configuration."""
    learner: Learner
    """Always read from here: `renew_learner` puts another one in its place."""
    reward: Replicas[Reward] | None = None
    """One; None where the objective asks for none."""
    replace_learner: Callable[[Learner], Awaitable[Learner]] | None = None
    """Ends a learner, whatever its state, and starts another; None where that cannot be done."""
    node: str | None = None
    """Of the cluster, that this process is on; None where there is no cluster."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """By name of a teacher: what answers for all of its replicas, such as a server. Others have one process each."""

    @property
    def pools(self) -> dict[str, Replicas[Any]]:
        """All that is supervised, by role, as messages call it."""
        teachers = {role_of(name): replicas for name, replicas in self.teachers.items()}
        reward = {} if self.reward is None else {"reward": self.reward}
        return {"sampler": self.samplers, **teachers, **reward}

    async def renew_learner(self) -> None:
        """Put a new learner, which holds the initial student, in the place of one that died; restore it next.

        Raises:
            LearnerLostError: this fleet cannot start another.
            EngineError, DeadlineError, ResourceError: it tried to.
        """
        if self.replace_learner is None:
            raise LearnerLostError("the learner died, and this fleet cannot start another; run the command again")
        self.learner = await self.replace_learner(self.learner)

    async def close(self) -> None:
        """Close all parts; the first error is raised after every part was told, the others are logged."""
        results = await asyncio.gather(
            self.samplers.close(),
            *(replicas.close() for replicas in self.teachers.values()),
            self.learner.close(),
            *([self.reward.close()] if self.reward else []),
            return_exceptions=True,
        )
        errors = [result for result in results if isinstance(result, BaseException)]
        for error in errors[1:]:
            logger.warning("closing failed too: %s", plain(error))
        if errors:
            raise errors[0]
