"""Starting the fleet: what each actor needs, whether the cluster has it, and all of them side by side."""

import asyncio
import itertools
import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import ray
from ray.actor import ActorHandle

from gkd_dist.cluster.actors import LearnerActor, RewardActor, SamplerActor, TeacherActor
from gkd_dist.cluster.launchers import ActorLauncher, Needs
from gkd_dist.cluster.learner_ranks import LearnerGroupLauncher
from gkd_dist.cluster.proxies import LearnerProxy, RewardProxy, SamplerProxy, TeacherProxy
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import ResourceError
from gkd_dist.fleet import Fleet, role_of
from gkd_dist.interfaces import Learner, Metrics, Reward, Sampler, Teacher
from gkd_dist.process import actor_environment
from gkd_dist.supervision.census import Census
from gkd_dist.supervision.pool import Pool
from gkd_dist.supervision.together import gather_all

Part = TypeVar("Part", covariant=True)


@dataclass(frozen=True)
class RolePlan(Generic[Part]):
    """Replicas of one kind."""

    make: Callable[[], Part]
    """Picklable; every replica is built by it, also those that come later."""
    num_replicas: int = 1
    """At the start."""
    max_ongoing: float = math.inf
    """Requests in the hands of one."""


@dataclass(frozen=True)
class FleetPlan:
    """Which parts to build, each by a picklable factory."""

    samplers: RolePlan[Sampler]
    teachers: Mapping[str, RolePlan[Teacher]]
    """By name."""
    learner: Callable[..., Learner]
    """Given the number of learners before it and, where there are several ranks, a `RankSeat`."""
    num_ids: int
    """Ids that the tokenizer knows: answers with others are refused."""
    reward: Callable[[], Reward] | None = None
    """None where there is none, or none that needs a process of its own."""
    server_teachers: Collection[str] = ()
    """Names of teachers that ask a server: such a replica needs no GPU."""
    num_learner_ranks: int = 1

    @property
    def num_rewards(self) -> int:
        return 0 if self.reward is None else 1

    @property
    def num_teachers(self) -> int:
        return sum(role.num_replicas for role in self.teachers.values())

    @property
    def num_local_teachers(self) -> int:
        """Replicas that compute themselves."""
        return sum(role.num_replicas for name, role in self.teachers.items() if name not in self.server_teachers)


class RoleNeeds:
    """What one actor of each role reserves."""

    def __init__(self, config: ClusterConfig) -> None:
        self.sampler = Needs(config.num_cpus_per_sampler, config.num_gpus_per_sampler, config.resources_per_sampler)
        self.teacher = Needs(config.num_cpus_per_teacher, config.num_gpus_per_teacher, config.resources_per_teacher)
        self.server_teacher = Needs(config.num_cpus_per_teacher)
        """It asks a server: any node will do."""
        self.learner = Needs(config.num_cpus_learner, config.num_gpus_learner, config.resources_learner)
        self.reward = Needs(config.num_cpus_reward, config.num_gpus_reward, config.resources_reward)


def check_resources(plan: FleetPlan, config: ClusterConfig) -> None:
    """Compare what all actors need with what the cluster has.

    Raises:
        ResourceError: names every missing resource, with what is wanted and what is there.
    """
    needs = RoleNeeds(config)
    wanted = (
        needs.sampler * plan.samplers.num_replicas
        + needs.teacher * plan.num_local_teachers
        + needs.server_teacher * (plan.num_teachers - plan.num_local_teachers)
        + needs.learner * plan.num_learner_ranks
        + needs.reward * plan.num_rewards
    )
    missing = wanted.missing(ray.available_resources())
    if missing:
        raise ResourceError(
            f"the cluster has too little for {plan.samplers.num_replicas} sampler(s), {plan.num_teachers} teacher(s), "
            f"{'a reward ' if plan.reward else ''}and {plan.num_learner_ranks} learner rank(s) "
            f"({'; '.join(missing)}); lower sampler.num_replicas, the num_replicas of a teacher, learner.num_ranks or "
            "cluster.num_cpus_*, num_gpus_* and resources_*, or add nodes"
        )


async def start_fleet(
    plan: FleetPlan,
    config: ClusterConfig,
    rules: SupervisionConfig,
    metrics: Metrics | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Fleet:
    """Start all actors side by side and wait until every one is ready.

    Args:
        rules: for the replicas; `supervise` of their pools is the caller's to run.
        say: told in one line of every part that is up, now and later, and what one waits for.

    Raises:
        ResourceError, DeadlineError, EngineError, or what a part raised while it was built: nothing that was started
            is left running.
    """
    check_resources(plan, config)
    launchers = Launchers(plan, config, rules, say)
    samplers = Pool(
        "sampler",
        launchers.samplers(),
        rules,
        target=plan.samplers.num_replicas,
        max_ongoing=plan.samplers.max_ongoing,
        metrics=metrics,
    )
    census = Census(metrics)  # all teachers are one role to the metrics
    teachers = {
        name: Pool(
            role_of(name),
            launchers.teachers(name),
            rules,
            target=role.num_replicas,
            max_ongoing=role.max_ongoing,
            metrics=census,
        )
        for name, role in plan.teachers.items()
    }
    learners, rewards = launchers.learner(), launchers.reward()
    reward = None if rewards is None else Pool("reward", rewards, rules, target=1)
    pools: list[Pool[Any]] = [samplers, *teachers.values(), *([] if reward is None else [reward])]
    learner: Any = None

    async def start_learner() -> None:
        nonlocal learner
        learner = await learners.start(0)

    restarts = itertools.count(1)

    async def replace_learner(former: Learner) -> Learner:
        await learners.kill(former)  # type: ignore[arg-type]  # it came from there
        return await launchers.learner(next(restarts)).start(0)

    try:
        await gather_all([*(pool.start() for pool in pools), start_learner()])
    except BaseException:
        if learner is not None:
            await learners.kill(learner)
        await asyncio.gather(*(pool.close() for pool in pools), return_exceptions=True)
        raise
    return Fleet(samplers, teachers, learner, reward, replace_learner, ray.get_runtime_context().get_node_id())


class Launchers:
    """One launcher per role; the only place that knows how an actor of each is started."""

    def __init__(
        self,
        plan: FleetPlan,
        config: ClusterConfig,
        rules: SupervisionConfig,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._plan = plan
        self._config = config
        self._needs = RoleNeeds(config)
        self._limits: dict[str, Any] = {
            "environment": environment_of(config),
            "startup_timeout_s": config.startup_timeout_s,
            "probe_timeout_s": rules.probe_timeout_s,
            "say": say,
        }

    def samplers(self) -> ActorLauncher[SamplerProxy]:
        timeout_s, num_ids = self._config.request_timeout_s, self._plan.num_ids
        return ActorLauncher(
            "sampler {}".format,
            SamplerActor,
            (self._plan.samplers.make,),
            lambda actor, name: SamplerProxy(actor, name, timeout_s, num_ids),
            needs=self._needs.sampler,
            **self._limits,
        )

    def teachers(self, name: str) -> ActorLauncher[TeacherProxy]:
        """Of the teacher of that name."""
        is_remote = name in self._plan.server_teachers
        return ActorLauncher(
            f"{role_of(name)} {{}}".format,
            TeacherActor,
            (self._plan.teachers[name].make, self._plan.num_ids),
            self._timed(TeacherProxy),
            needs=self._needs.server_teacher if is_remote else self._needs.teacher,
            **self._limits,
        )

    def learner(self, restart: int = 0) -> ActorLauncher[LearnerProxy] | LearnerGroupLauncher:
        """
        Args:
            restart: how many were before it.
        """
        make = partial(self._plan.learner, restart)
        if self._plan.num_learner_ranks > 1:
            return LearnerGroupLauncher(
                make,
                self._plan.num_learner_ranks,
                needs=self._needs.learner,
                timeout_s=self._config.request_timeout_s,
                loopback=self._config.address == "local",
                **self._limits,
            )
        return ActorLauncher(
            lambda _: "learner",
            LearnerActor,
            (make,),
            self._timed(LearnerProxy),
            needs=self._needs.learner,
            **self._limits,
        )

    def reward(self) -> ActorLauncher[RewardProxy] | None:
        if self._plan.reward is None:
            return None
        return ActorLauncher(
            lambda _: "reward",
            RewardActor,
            (self._plan.reward,),
            self._timed(RewardProxy),
            needs=self._needs.reward,
            **self._limits,
        )

    def _timed(self, proxy: Callable[["ActorHandle[Any]", str, float], Any]) -> Callable[..., Any]:
        timeout_s = self._config.request_timeout_s
        return lambda actor, name: proxy(actor, name, timeout_s)


def environment_of(config: ClusterConfig) -> dict[str, str]:
    """Environment of every actor.

    In a joined cluster this machine's number of cores says nothing about the node that an actor lands on: there Ray
    chooses the number of threads, unless the user has.
    """
    environment = actor_environment()
    if config.address != "local" and "OMP_NUM_THREADS" not in os.environ:
        del environment["OMP_NUM_THREADS"]
    return environment
