"""What a pool counts of its requests and of the weights that its samplers take."""

import asyncio
from collections.abc import Callable

import pytest

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import EngineError, RejectedError, WeightsError, WireError
from gkd_dist.metrics.exporter import Exporter
from gkd_dist.supervision.census import Census
from gkd_dist.supervision.health import State
from gkd_dist.supervision.pool import Pool
from gkd_dist.testing.fakes import FakeMetrics


class Part:
    """Answers with what it was made with, or raises it."""

    def __init__(self, *answers: int | Exception) -> None:
        self._answers = list(answers)

    async def work(self) -> int:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        """Nothing to close."""


def counted(*parts: Part, role: str = "sampler") -> tuple["Pool[Part]", Callable[[str], float]]:
    """A pool of these, and what its metrics say by name and labels."""
    exporter = Exporter()

    def value(series: str) -> float:
        lines = (line.rsplit(" ", 1) for line in exporter.text().decode().splitlines())
        return float(dict(pair for pair in lines if len(pair) == 2)[series])

    return Pool.of(parts, role=role, metrics=Census(exporter)), value


def test_given_replicas_are_counted_as_healthy() -> None:
    _, value = counted(Part(), Part())
    assert value('gkd_replicas{role="sampler",state="healthy"}') == value('gkd_replicas_target{role="sampler"}') == 2
    assert value('gkd_replica_weight_version{role="sampler",slot="1"}') == 0


def test_a_request_counts_once_and_its_repetitions_apart() -> None:
    pool, value = counted(Part(EngineError("down")), Part(1, 2), role="teacher math")
    assert asyncio.run(pool.call(Part.work, "work")) == 1
    assert asyncio.run(pool.call(Part.work, "work")) == 2
    assert value('gkd_requests_total{role="teacher"}') == 2
    assert value('gkd_requests_retried_total{class="infra",role="teacher"}') == 1


@pytest.mark.parametrize(("error", "reason"), [(WireError("checksum"), "frame"), (RejectedError("ids"), "answer")])
def test_what_is_not_accepted_is_counted_though_another_replica_answers(error: Exception, reason: str) -> None:
    pool, value = counted(Part(error), Part(5))
    assert asyncio.run(pool.call(Part.work, "work")) == 5
    assert value(f'gkd_messages_rejected_total{{reason="{reason}",role="sampler"}}') == 1


def test_weights_are_shown_by_slot_once_they_are_loaded() -> None:
    pool, value = counted(Part(3), Part(3))
    asyncio.run(pool.bring_up(Part.work))
    assert [value(f'gkd_replica_weight_version{{role="sampler",slot="{slot}"}}') for slot in (0, 1)] == [3, 3]
    assert value("gkd_weight_sync_failures_total") == 0


def test_weights_that_are_not_taken_are_counted() -> None:
    pool, value = counted(Part(3), Part(WeightsError("wrong digest")))
    with pytest.raises(WeightsError):
        asyncio.run(pool.bring_up(Part.work))
    assert value("gkd_weight_sync_failures_total") == 1
    assert value('gkd_replica_weight_version{role="sampler",slot="1"}') == 0


def test_thousands_of_slots_are_told_in_one_report() -> None:
    """A report looks at every slot: one for each change would make a large target a standstill."""

    class Full:
        """Has room for one."""

        async def start(self, slot: int) -> Part:
            if slot > 0:
                await asyncio.Event().wait()
            return Part()

        def waits_for(self, slot: int) -> str:
            return f"{slot} has no room"

        async def probe(self, replica: Part) -> None:
            """Well."""

        async def kill(self, replica: Part) -> None:
            """Nothing is left."""

        def describe(self, replica: Part) -> dict[str, str | int]:
            return {"type": type(replica).__name__}

    class Counting(FakeMetrics):
        num_calls = 0

        def gauge(self, name: str, value: float, **labels: str) -> None:
            self.num_calls += 1
            super().gauge(name, value, **labels)

    async def grow() -> tuple[int, int]:
        metrics = Counting()
        pool = Pool("sampler", Full(), SupervisionConfig(), target=1, metrics=metrics)
        await pool.start()
        supervision = asyncio.create_task(pool.supervise())
        pool.set_target(2000)
        for _ in range(50):
            await asyncio.sleep(0)
        supervision.cancel()
        states = list(pool.states.values())
        await pool.close()
        return metrics.num_calls, states.count(State.RESTARTING)

    num_calls, num_starting = asyncio.run(grow())
    assert num_starting == 1999
    assert num_calls < 2000
