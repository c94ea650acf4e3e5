"""A scenario from its first step to its last."""

import asyncio
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from gkd_dist.replay.groups import Admission
from gkd_dist.simulation.outcome import Busy, Measured, Outcome, Window, max_rss_bytes, shares_of, twice_trained
from gkd_dist.simulation.scenario import Scenario
from gkd_dist.simulation.shard import started
from gkd_dist.simulation.virtual_loop import VirtualLoop, run_virtual
from gkd_dist.simulation.weights import Distribution
from gkd_dist.supervision.health import State
from gkd_dist.supervision.together import gather_all


def simulate(scenario: Scenario, *, warm_up: int = 2) -> Outcome:
    """All steps in virtual time.

    Args:
        warm_up: steps before what is measured begins, at least 1. It ends max_staleness + 1 steps before the last one:
            nothing new is given out from there on.

    Raises:
        GkdError: what ended the run.
    """
    return run_virtual(turn(scenario, warm_up=warm_up))


async def turn(scenario: Scenario, *, warm_up: int = 2) -> Outcome:
    """As `simulate`, in the time of the running loop, be it a real one."""
    last = scenario.max_steps - scenario.max_staleness - 1
    if not 1 <= warm_up < last:
        raise ValueError(
            f"need warm_up >= 1 and at least warm_up + max_staleness + 2 steps, got {warm_up} and {scenario.max_steps}"
        )
    loop, cpu_s, real_s = asyncio.get_running_loop(), time.process_time(), time.perf_counter()
    distribution, barrier = Distribution(scenario.weights), asyncio.Barrier(scenario.num_shards)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shards = [
            await stack.enter_async_context(started(scenario, number, folder, distribution, barrier))
            for number in range(scenario.num_shards)
        ]
        looks: list[Busy] = []

        def look(num_steps: int) -> None:
            if num_steps in (warm_up, last):
                looks.append(Busy.of(shards))

        steps = shards[0].steps
        steps.after = look
        await gather_all(shard.run() for shard in shards)
        before, after = looks
        window = Window(steps.times[warm_up - 1], steps.times[last - 1], scenario.batch_size * (last - warm_up))
        measured = Measured(
            cpu_s=time.process_time() - cpu_s,
            seconds=time.perf_counter() - real_s,
            max_rss_bytes=max_rss_bytes(),
            num_jumps=loop.num_jumps if isinstance(loop, VirtualLoop) else 0,
        )
        num_trained, num_trained_twice = twice_trained(shards)
        pools = [pool for shard in shards for pool in shard.ring.fleet.pools.values()]
        replays = [shard.ring.replay for shard in shards]
        return Outcome(
            scenario=scenario,
            window=window,
            shares=shares_of(before, after, window, scenario),
            staleness=sum((each.staleness_counts for each in replays), Counter()),
            num_evicted=sum(each.counters["evicted"] + each.counters[Admission.TOO_STALE] for each in replays),
            num_deaths=sum(each.samplers.num_deaths + each.teachers.num_deaths for each in shards),
            num_restarts=sum(view.num_restarts for pool in pools for view in pool.slots),
            num_retired=sum(state is State.RETIRED for pool in pools for state in pool.states.values()),
            num_trained=num_trained,
            num_trained_twice=num_trained_twice,
            targets=shards[0].targets,
            measured=measured,
        )
