"""Starting the fleet: what each actor needs, whether the cluster has it, and a deadline for all of them."""

import asyncio
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from gkd_dist.cluster.actors import LearnerActor, RewardActor, SamplerActor, TeacherActor
from gkd_dist.cluster.learner_group import start_learner_group
from gkd_dist.cluster.proxies import LearnerProxy, RewardProxy, SamplerProxy, TeacherProxy, failure_of
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.errors import DeadlineError, ResourceError
from gkd_dist.interfaces import Fleet, Learner, Reward, Sampler, Teacher
from gkd_dist.process import actor_environment


@dataclass(frozen=True)
class FleetPlan:
    """Which parts to build, each by a picklable factory."""

    samplers: list[Callable[[], Sampler]]
    teachers: Mapping[str, list[Callable[[], Teacher]]]
    """By name; one factory per replica."""
    learner: Callable[..., Learner]
    """Takes a `Seat` where there are several ranks, else nothing."""
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
        return sum(map(len, self.teachers.values()))

    @property
    def num_local_teachers(self) -> int:
        """Replicas that compute themselves."""
        return sum(len(makes) for name, makes in self.teachers.items() if name not in self.server_teachers)


def check_resources(plan: FleetPlan, config: ClusterConfig) -> None:
    """Compare what all actors need with what the cluster has.

    Raises:
        ResourceError: names every missing resource, with what is wanted and what is there.
    """
    wanted = {
        "CPU": len(plan.samplers) * config.num_cpus_per_sampler
        + plan.num_teachers * config.num_cpus_per_teacher
        + plan.num_learner_ranks * config.num_cpus_learner
        + plan.num_rewards * config.num_cpus_reward,
        "GPU": len(plan.samplers) * config.num_gpus_per_sampler
        + plan.num_local_teachers * config.num_gpus_per_teacher
        + plan.num_learner_ranks * config.num_gpus_learner
        + plan.num_rewards * config.num_gpus_reward,
    }
    there = ray.available_resources()
    missing = [
        f"{name}: {amount:g} wanted, {there.get(name, 0):g} free"
        for name, amount in wanted.items()
        if amount > there.get(name, 0)
    ]
    if missing:
        raise ResourceError(
            f"the cluster has too little for {len(plan.samplers)} sampler(s), {plan.num_teachers} teacher(s), "
            f"{'a reward ' if plan.reward else ''}and {plan.num_learner_ranks} learner rank(s) "
            f"({'; '.join(missing)}); lower sampler.num_replicas, the num_replicas of a teacher, learner.num_ranks or "
            "cluster.num_cpus_* and num_gpus_*, or add nodes"
        )


async def start_fleet(plan: FleetPlan, config: ClusterConfig) -> Fleet:
    """Start all actors side by side and wait until every one is ready.

    Raises:
        ResourceError, DeadlineError, EngineError, or what a part raised while it was built: nothing that was started
            is left running.
    """
    check_resources(plan, config)
    environment = environment_of(config)
    timeout_s = config.request_timeout_s
    started: list[tuple[str, ActorHandle]] = []

    def start(name: str, shell: type, make: Callable[[], Any], num_cpus: float, num_gpus: float) -> ActorHandle:
        actor = _start(shell, make, num_cpus, num_gpus, environment)
        started.append((name, actor))
        return actor

    def sampler(slot: int, make: Callable[[], Sampler]) -> SamplerProxy:
        name = f"sampler {slot}"
        actor = start(name, SamplerActor, make, config.num_cpus_per_sampler, config.num_gpus_per_sampler)
        return SamplerProxy(actor, name, timeout_s)

    def teacher(teacher_name: str, slot: int, make: Callable[[], Teacher]) -> TeacherProxy:
        name = _teacher_name(teacher_name, slot)
        num_gpus = 0 if teacher_name in plan.server_teachers else config.num_gpus_per_teacher
        actor = start(name, TeacherActor, make, config.num_cpus_per_teacher, num_gpus)
        return TeacherProxy(actor, name, timeout_s)

    def learner() -> Learner:
        if plan.num_learner_ranks > 1:
            return start_learner_group(
                plan.learner,
                plan.num_learner_ranks,
                lambda *what: start(*what, config.num_cpus_learner, config.num_gpus_learner),
                lambda actor, name: LearnerProxy(actor, name, timeout_s),
                setup_timeout_s=config.startup_timeout_s,
                timeout_s=timeout_s,
                loopback=config.address == "local",
            )
        actor = start("learner", LearnerActor, plan.learner, config.num_cpus_learner, config.num_gpus_learner)
        return LearnerProxy(actor, "learner", timeout_s)

    def reward() -> RewardProxy | None:
        if plan.reward is None:
            return None
        actor = start("reward", RewardActor, plan.reward, config.num_cpus_reward, config.num_gpus_reward)
        return RewardProxy(actor, "reward", timeout_s)

    try:
        fleet = Fleet(
            samplers=[sampler(slot, make) for slot, make in enumerate(plan.samplers)],
            teachers={
                name: [teacher(name, slot, make) for slot, make in enumerate(makes)]
                for name, makes in plan.teachers.items()
            },
            learner=learner(),
            reward=reward(),
        )
        await _wait_until_ready(started, config.startup_timeout_s)
    except BaseException:
        for _, actor in started:
            ray.kill(actor)
        raise
    return fleet


def _teacher_name(name: str, slot: int) -> str:
    return f"{name} {slot}" if name == "teacher" else f"teacher {name} {slot}"


def environment_of(config: ClusterConfig) -> dict[str, str]:
    """Environment of every actor.

    In a joined cluster this machine's number of cores says nothing about the node that an actor lands on: there Ray
    chooses the number of threads, unless the user has.
    """
    environment = actor_environment()
    if config.address != "local" and "OMP_NUM_THREADS" not in os.environ:
        del environment["OMP_NUM_THREADS"]
    return environment


def _start(
    shell: type, make: Callable[[], Any], num_cpus: float, num_gpus: float, environment: dict[str, str]
) -> ActorHandle:
    actor_class = ray.remote(
        num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0, runtime_env={"env_vars": environment}
    )(shell)
    return actor_class.remote(make)


async def _wait_until_ready(actors: list[tuple[str, ActorHandle]], timeout_s: float) -> None:
    waiting = {asyncio.ensure_future(_ready(name, actor)): name for name, actor in actors}
    done, pending = await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()
    if pending:
        late = ", ".join(sorted(waiting[task] for task in pending))
        raise DeadlineError(
            f"{late} did not start within cluster.startup_timeout_s ({timeout_s:g} s); free now: "
            f"{ {name: amount for name, amount in ray.available_resources().items() if name in ('CPU', 'GPU')} }"
        )


async def _ready(name: str, actor: ActorHandle) -> None:
    try:
        await actor.ready.remote()
    except RayError as error:
        raise failure_of(error, name, "start") from error
