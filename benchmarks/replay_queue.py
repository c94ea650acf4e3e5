"""Measure the way from a teacher to the learner: records per second, beside the queues of multiprocessing and Ray.

    .venv/bin/python benchmarks/replay_queue.py [--records 2000] [--rounds 5]

A record is a sequence of 256 tokens with hidden states of width 1,024 in bfloat16 (512 KiB). One process makes them,
one reads every byte; both wait where there is too much or too little. Ours is what a run does: the teacher's actor
encodes, Ray's object store carries the frame, the controller in a third process moves handles through `ReplayBuffer`
and draws batches of lambda = 0.5, the learner's actor decodes and checks them. Row by row is mode=async, eight rows per
request mode=sync, 32 what a sampler's share of a larger batch would be: a request's cost is spread over more rows.
The queues carry (ids, states) without checks or mixing. Rounds take turns; the first does not count.
Then the buffer alone, without processes: the cost of a draw, and lambda over 10,000 of them.
Writes benchmarks/replay_queue.json.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import ray
from counts import positive
from elastic_parts import CountingLearner
from ray.util.queue import Queue
from rounds import cpu_seconds, machine

from gkd_dist.closing import Closing
from gkd_dist.cluster.placement import FleetPlan, RolePlan, start_fleet
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.fleet import Fleet
from gkd_dist.pipeline.learning import train_batch
from gkd_dist.pipeline.scoring import score
from gkd_dist.replay.buffer import ReplayBuffer
from gkd_dist.targets import HiddenTargets
from gkd_dist.testing.fakes import FakeMetrics, FakeSampler, FakeTeacher
from gkd_dist.types import (
    FinishReason,
    SampleId,
    ScoredTrajectory,
    Source,
    StepReport,
    TrainBatch,
    Trajectory,
    VersionRange,
)

RESULT = Path(__file__).with_suffix(".json")
TOKENS, WIDTH, PROMPT_TOKENS = 256, 1024, 16
BATCH, CAPACITY, IN_FLIGHT = 8, 64, 64
FRACTION = 0.5
NEVER_STALE = 1 << 30
DRAWS = 10_000
RECORD_BYTES = TOKENS * WIDTH * 2

Seconds = dict[str, list[float]]
"""By provider, one per round."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=whole_batches, default=2000)
    parser.add_argument("--rounds", type=positive, default=5)
    arguments = parser.parse_args()
    result = {
        "machine": {**machine(), "ray": ray.__version__},
        "arguments": vars(arguments),
        "record_bytes": RECORD_BYTES,
        "draws": {mix: asyncio.run(draw_alone(mix)) for mix in ("per_sequence", "per_batch")},
    }
    asyncio.run(measure(arguments.records, arguments.rounds, partial(write, result)))
    print(json.dumps(result, indent=2), f"\nwritten to {RESULT}")


def whole_batches(text: str) -> int:
    """Records that batches of `BATCH` use up, as a type of argparse: others would be counted, and not carried."""
    number = positive(text)
    if number % BATCH:
        raise argparse.ArgumentTypeError(f"must be a multiple of {BATCH} above 0, got {text!r}")
    return number


def write(result: dict[str, Any], num_records: int, found: Seconds, cpu: Seconds, draws: list[float]) -> None:
    """What was measured so far."""
    if draws:  # none where each of them had to wait
        result["draw_under_load_us"] = {
            "median": round(statistics.median(draws) * 1e6, 1),
            "max": round(max(draws) * 1e6, 1),
        }
    result["providers"] = {
        name: {
            **summary(seconds, num_records),
            "cpu_ms_per_record": round(min(cpu[name]) / num_records * 1e3, 3),
        }
        for name, seconds in found.items()
    }
    result["ours_times_as_fast_as"] = {
        f"{name}, {ours}": {
            "fastest": round(min(found[name]) / min(found[ours]), 2),
            "median": round(statistics.median(found[name]) / statistics.median(found[ours]), 2),
            "cpu": round(min(cpu[name]) / min(cpu[ours]), 2),
        }
        for ours in found
        if ours.startswith("ours")
        for name in found
        if not name.startswith("ours")
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def summary(seconds: list[float], num_records: int) -> dict[str, Any]:
    fastest, median = min(seconds), statistics.median(seconds)
    return {
        "seconds": [round(each, 3) for each in seconds],
        "best_records_per_s": round(num_records / fastest, 1),
        "median_records_per_s": round(num_records / median, 1),
        "best_gb_per_s": round(num_records * RECORD_BYTES / fastest / 1e9, 3),
        "median_gb_per_s": round(num_records * RECORD_BYTES / median / 1e9, 3),
    }


async def measure(
    num_records: int, num_rounds: int, write: Callable[[int, Seconds, Seconds, list[float]], None]
) -> None:
    """Seconds per round of every provider, CPU seconds of all processes, and the draws of ours that had nothing to wait
    for."""
    cluster = ClusterConfig(
        num_cpus_per_sampler=0, num_cpus_per_teacher=0, num_cpus_learner=0, object_store_bytes=512 << 20
    )
    plan = FleetPlan(RolePlan(FakeSampler), {"teacher": RolePlan(StatesTeacher)}, ReadingLearner, num_ids=1 << 20)
    draws: list[float] = []
    seconds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    with pipe_workers() as piped, ray_session(cluster):
        fleet = await start_fleet(plan, cluster, SupervisionConfig(), FakeMetrics())
        async with Closing(fleet):
            queued = QueueWorkers()
            providers: dict[str, Callable[[int], Awaitable[float]]] = {
                "ours, row by row": lambda number: ours(fleet, number, 1, draws),
                "multiprocessing.Queue": lambda number: asyncio.to_thread(piped, number),
                "ours, 8 rows per request": lambda number: ours(fleet, number, BATCH, draws),
                "ours, 32 rows per request": lambda number: ours(fleet, number, 4 * BATCH, draws),
                "ray.util.queue.Queue": lambda number: asyncio.to_thread(queued.carry, number),
            }
            for number in range(num_rounds + 1):
                for name, carry in providers.items():
                    since = cpu_seconds()
                    wall_s = await carry(num_records if number else warm_up(num_records))
                    cpu_s = cpu_seconds() - since
                    print(name, round(wall_s, 3), round(cpu_s, 3), flush=True)
                    if number:
                        seconds.setdefault(name, []).append(wall_s)
                        cpu.setdefault(name, []).append(cpu_s)
                if number:
                    write(num_records, seconds, cpu, draws)


def warm_up(num_records: int) -> int:
    """An eighth, in whole batches, at least one."""
    return max(1, num_records // 8 // BATCH) * BATCH


class StatesTeacher(FakeTeacher):
    """Says the same of every sequence."""

    def __init__(self) -> None:
        super().__init__()
        self._states = HiddenTargets(states())

    async def score(self, trajectories: Any) -> Any:
        return [self._states] * len(trajectories)


class ReadingLearner(CountingLearner):
    """Reads what it is given, and learns nothing."""

    async def train(self, batch: TrainBatch) -> StepReport:
        for item in batch.scored:
            read(item.scores[0].targets.hidden)  # type: ignore[union-attr]  # the proxy has resolved the handle
        return await super().train(batch)


async def ours(fleet: Fleet, num_records: int, rows: int, draws: list[float]) -> float:
    replay = ReplayBuffer(CAPACITY, NEVER_STALE, batch_size=BATCH)
    mixture, room = make_mixture("per_sequence", num_records // BATCH), asyncio.Semaphore(IN_FLIGHT // rows)
    order = [
        trajectory(step * BATCH + index, index < mixture.num_student(step))
        for step in range(num_records // BATCH)
        for index in range(BATCH)
    ]

    async def go_round(some: list[Trajectory]) -> None:
        try:
            for item in await score(fleet, some):
                await replay.admit([item], now_version=0)
        finally:
            room.release()

    async def produce() -> None:
        async with asyncio.TaskGroup() as under_way:
            for first in range(0, len(order), rows):
                await room.acquire()
                under_way.create_task(go_round(order[first : first + rows]))

    start = time.perf_counter()
    producing = asyncio.create_task(produce())
    for step in range(num_records // BATCH):
        num_student = mixture.num_student(step)
        waits = replay.num_student < num_student or replay.num_fixed < BATCH - num_student
        asked = time.perf_counter()
        drawn = await replay.draw(num_student, BATCH - num_student, version=0)
        if not waits:
            draws.append(time.perf_counter() - asked)
        await fleet.learner.train(train_batch(step, [each.scored for each in drawn]))
    seconds = time.perf_counter() - start
    await producing
    return seconds


class QueueWorkers:
    """A producer and a consumer beside the actor that is Ray's queue."""

    def __init__(self) -> None:
        worker = ray.remote(num_cpus=0)(QueueWorker)
        self._producer, self._consumer = worker.remote(), worker.remote()
        self._queue = Queue(maxsize=2 * CAPACITY, actor_options={"num_cpus": 0})

    def carry(self, num_records: int) -> float:
        start = time.perf_counter()
        produced = self._producer.produce.remote(self._queue, num_records)
        ray.get([produced, self._consumer.consume.remote(self._queue, num_records)])
        return time.perf_counter() - start


class QueueWorker:
    def produce(self, queue: Queue, num_records: int) -> None:
        record = (np.arange(TOKENS, dtype=np.int32), states())
        for _ in range(num_records):
            queue.put(record)

    def consume(self, queue: Queue, num_records: int) -> None:
        for _ in range(num_records):
            read(queue.get()[1])


@contextmanager
def pipe_workers() -> Iterator[Any]:
    """`carry(num_records)` -> seconds, over processes that are there already."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(maxsize=2 * CAPACITY)
    ends = [context.Pipe(), context.Pipe()]
    works = [partial(_produce, ends[0][1], queue), partial(_consume, ends[1][1], queue)]
    processes = [context.Process(target=work, daemon=True) for work in works]
    for process in processes:
        process.start()

    def carry(num_records: int) -> float:
        start = time.perf_counter()
        for end, _ in ends:
            end.send(num_records)
        for end, _ in ends:
            end.recv()
        return time.perf_counter() - start

    try:
        yield carry
    finally:
        for end, _ in ends:
            end.send(0)
        for process in processes:
            process.join()


def _produce(orders: Connection, queue: Any) -> None:
    record = (np.arange(TOKENS, dtype=np.int32), states())
    while num_records := orders.recv():
        for _ in range(num_records):
            queue.put(record)
        orders.send(True)


def _consume(orders: Connection, queue: Any) -> None:
    while num_records := orders.recv():
        for _ in range(num_records):
            read(queue.get()[1])
        orders.send(True)


async def draw_alone(mix: str) -> dict[str, Any]:
    """The buffer without processes: it is kept full, and drawn from `DRAWS` times. CPU time."""
    replay, mixture = ReplayBuffer(CAPACITY, NEVER_STALE, batch_size=BATCH), make_mixture(mix, DRAWS)
    made = {True: 0, False: 0}
    seconds, num_student = [], 0
    for step in range(DRAWS):
        for student, waiting in ((True, replay.num_student), (False, replay.num_fixed)):
            for _ in range(CAPACITY - waiting):
                item = trajectory(made[student] * 2 + student, student)
                made[student] += 1
                await replay.admit([ScoredTrajectory(item, (), None)], now_version=step)
        wanted = mixture.num_student(step)
        start = time.process_time()
        drawn = await replay.draw(wanted, BATCH - wanted, version=step)
        seconds.append(time.process_time() - start)
        num_student += sum(each.scored.trajectory.source is Source.STUDENT for each in drawn)
    share = num_student / (DRAWS * BATCH)
    return {
        "draws": DRAWS,
        "median_us": round(statistics.median(seconds) * 1e6, 1),
        "p99_us": round(sorted(seconds)[int(0.99 * DRAWS)] * 1e6, 1),
        "lambda": FRACTION,
        "realised": round(share, 5),
        "off_by": round(abs(share - FRACTION), 5),
    }


def make_mixture(mix: Any, num_steps: int) -> Mixture:
    return Mixture(FRACTION, mix, ScheduleConfig(), batch_size=BATCH, seed=0, max_steps=num_steps)


def trajectory(index: int, student: bool) -> Trajectory:
    return Trajectory(
        sample_id=SampleId("queue", index),
        prompt_ids=np.arange(PROMPT_TOKENS, dtype=np.int32),
        completion_ids=np.arange(TOKENS, dtype=np.int32),
        source=Source.STUDENT if student else Source.GROUND_TRUTH,
        finish_reason=FinishReason.LENGTH,
        behaviour_log_probs=np.zeros(TOKENS, np.float32) if student else None,
        versions=VersionRange(0, 0) if student else None,
    )


def states() -> np.ndarray:
    """[TOKENS, WIDTH] bits of bfloat16."""
    return np.random.default_rng(0).integers(0, 0x7F00, (TOKENS, WIDTH), np.uint16)


def read(array: np.ndarray) -> int:
    return int(array.max())


if __name__ == "__main__":
    main()
