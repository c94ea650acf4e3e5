"""How many rows the intake gives out under each live version, and what it costs to find out."""

import asyncio

from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.pipeline.intake import Intake, Row
from gkd_dist.replay.groups import Kind

BATCH, STEPS = 8, 6


class AskedMixture(Mixture):
    """Counts how often it is asked for a quota."""

    num_asked = 0

    def num_prompts(self, step: int) -> int:
        self.num_asked += 1
        return super().num_prompts(step)


def falling() -> AskedMixture:
    """Lambda falls from 1 to 0 over the run."""
    schedule = ScheduleConfig(type="linear", final=0.0)
    return AskedMixture(1.0, "per_sequence", schedule, batch_size=BATCH, seed=0, max_steps=STEPS)


async def all_now(intake: Intake) -> list[Row]:
    """Everything that may go in without waiting."""
    rows: list[Row] = []
    while True:
        try:
            async with asyncio.timeout(0.01):
                rows += await intake.next()
        except TimeoutError:
            return rows


def test_each_version_lets_in_what_its_steps_ask_for() -> None:
    async def check() -> None:
        mixture, staleness = falling(), 2
        intake = Intake(mixture, batch_size=BATCH, max_steps=STEPS, max_staleness=staleness)
        issued = dict.fromkeys(Kind, 0)
        for version in range(STEPS):
            for row in await all_now(intake):
                issued[row.kind] += 1
            ahead = range(min(version + staleness + 1, STEPS))
            students = sum(mixture.num_student(step) for step in ahead)
            assert issued == {Kind.STUDENT: students, Kind.FIXED: BATCH * len(ahead) - students}
            num_student = mixture.num_student(version)
            intake.trained(version + 1, num_student, BATCH - num_student)
            intake.live(version + 1)

    asyncio.run(check())


def test_the_quota_is_looked_up_once_per_version_and_not_per_row() -> None:
    async def count(staleness: int) -> int:
        mixture = falling()
        intake = Intake(mixture, batch_size=BATCH, max_steps=STEPS, max_staleness=staleness)
        mixture.num_asked = 0
        await intake.next()
        first = mixture.num_asked
        await all_now(intake)
        return mixture.num_asked - first

    # What is left are the rows of each step, found when the first row of the step goes in.
    assert asyncio.run(count(4)) <= STEPS * 4
