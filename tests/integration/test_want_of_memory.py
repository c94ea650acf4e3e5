"""Ray ends an actor because the machine has too little memory left: its slot says so."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

PROGRAM = """
import asyncio, os, time

# Whatever this machine has is too little: the first look at a process that works ends it.
os.environ |= {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
from gkd_dist.cluster.placement import FleetPlan, Launchers, RolePlan
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import GkdError
from gkd_dist.supervision.pool import Pool

config = ClusterConfig(num_cpus_per_sampler=0, startup_timeout_s=60)
rules = SupervisionConfig()

def slow(*_):
    time.sleep(60)  # what is up before the first look would live

async def main():
    plan = FleetPlan(RolePlan(slow), {}, slow, 128)
    launchers = Launchers(plan, config, rules)
    pool = Pool("sampler", launchers.samplers(), rules, target=1)
    for start in (pool.start, lambda: launchers.learner().start(0)):
        try:
            await start()
        except GkdError as error:
            print(type(error).__name__, error)
    print(*(event.reason for event in pool.events))

with ray_session(config):
    asyncio.run(main())
"""


@pytest.mark.fault(49)
def test_a_part_that_is_killed_for_memory_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True)
    replica, learner, reasons = done.stdout.splitlines()
    assert replica.startswith("OutOfMemoryError sampler 0 died while asked to start: out of memory: ")
    assert learner.startswith("OutOfMemoryError learner died while asked to start: out of memory: ")
    assert reasons == "new oom"
