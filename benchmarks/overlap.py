"""Measure overlap: what a step takes in the real ring when sampler, teacher and learner take a fixed time per batch.

    .venv/bin/python benchmarks/overlap.py [--steps 30] [--rounds 3]

Engines compute nothing; sampler and teacher keep to a time table, row by row, the learner waits once per step. Intake,
replay, controller, metrics and ledger are those of a run: in whole steps (mode=sync) at staleness 0, row by row
(mode=async) above. Weights are handed on at no cost. Writes benchmarks/overlap.json.

Every setting is turned twice. `simulated`: the event loop's clock jumps to the next timer whenever nothing can run, so
that computing costs no time; what is left is who waits for whom, the same on every machine. `real`: the clock of the
machine, in turns, round after round; the fastest round counts, and a busy machine wakes late from every wait.

    slowest     the time of the slowest stage: what full overlap gives
    sum         of all stages: what no overlap gives
    latency     the sum without the waiting for others of one batch, over the batches that may be under way
                (max_staleness + 1): no ring with that bound is faster

Of a sum of 90 ms the few milliseconds that the controller computes are a twentieth, all that the bar leaves: by the
machine's clock, short stages measure the controller, and those four times as long who waits for whom.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from counts import positive
from rounds import machine

from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.data.prompts import PromptStream, RenderedRow
from gkd_dist.fleet import Fleet
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.pipeline.ring import Plan
from gkd_dist.replay.ledger import Ledger
from gkd_dist.supervision.pool import Pool
from gkd_dist.targets import TargetsHandle, TeacherTargets
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeSampler, FakeTeacher
from gkd_dist.types import Prompt, SamplingParams, StepReport, TrainBatch, Trajectory

RESULT = Path(__file__).with_suffix(".json")
BATCH, PROMPT_TOKENS, NEW_TOKENS = 8, 16, 16
SHORT_MS = ((40, 20, 30), (20, 40, 30), (30, 20, 60), (30, 30, 30))
"""Sampler, teacher and learner, per batch."""
STAGES_MS = (*SHORT_MS, *(tuple(4 * each for each in stages) for stages in SHORT_MS))
STALENESS = (0, 1, 4)
WARM_UP_STEPS = 6
FEWEST_STEPS = WARM_UP_STEPS + 2
"""From the end of one step that counts to that of the next."""
OVERLAPPED, SERIAL = 1.10, 1.05
"""The bars: step time over the slowest stage, and over the sum."""


class Lane:
    """One thing at a time, by the loop's clock; a late wake-up does not add up."""

    def __init__(self) -> None:
        self._free_at = 0.0

    async def work(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        self._free_at = max(now, self._free_at) + seconds
        await asyncio.sleep(self._free_at - now)


class TimedSampler(FakeSampler):
    def __init__(self, row_s: float) -> None:
        super().__init__()
        self._row_s, self._lane = row_s, Lane()

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        await self._lane.work(len(prompts) * self._row_s)
        return [self._answer(prompt, params) for prompt in prompts]


class TimedTeacher(FakeTeacher):
    def __init__(self, row_s: float) -> None:
        super().__init__(hidden_size=8)
        self._row_s, self._lane = row_s, Lane()

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
        await self._lane.work(len(trajectories) * self._row_s)
        return [self._targets(each) for each in trajectories]


class TimedLearner(FakeLearner):
    """Notes when each step ended, by the loop's clock."""

    def __init__(self, step_s: float) -> None:
        super().__init__()
        self._step_s = step_s
        self.ended: list[float] = []

    async def train(self, batch: TrainBatch) -> StepReport:
        await asyncio.sleep(self._step_s)
        self.ended.append(asyncio.get_running_loop().time())
        return await super().train(batch)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Its clock stands still while something runs, and jumps to the next timer when nothing can."""

    def __init__(self) -> None:
        super().__init__()
        self._now, self._poll = 0.0, self._selector.select
        self._selector.select = self._jump

    def time(self) -> float:
        return self._now

    def _jump(self, timeout: float | None) -> Any:
        events = self._poll(0)
        if not events and timeout:
            self._now += timeout
        return events


def clocked(part: Any, method: str, taken_s: list[float]) -> Any:
    """`part`, whose calls of `method` leave in `taken_s` how long they really took."""
    inner = getattr(part, method)

    async def call(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return await inner(*arguments)
        finally:
            taken_s.append(time.perf_counter() - start)

    setattr(part, method, call)
    return part


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=positive, default=30)
    parser.add_argument("--rounds", type=positive, default=3)
    arguments = parser.parse_args()
    if arguments.steps < FEWEST_STEPS:
        parser.error(f"--steps must be at least {FEWEST_STEPS}, {WARM_UP_STEPS} do not count; got {arguments.steps}")
    cases = [(stages, staleness) for stages in STAGES_MS for staleness in STALENESS]
    about = machine()
    found: dict[tuple[tuple[int, ...], int], list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(arguments.rounds):
        for stages, staleness in cases:
            found[stages, staleness].append(asyncio.run(turn(stages, staleness, arguments.steps)))
    simulated = []
    for stages, staleness in cases:
        with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
            case = judged(stages, staleness, [runner.run(turn(stages, staleness, arguments.steps))])
        case.pop("over_what_stages_took", None)  # by the machine's clock, which stood for nothing here
        simulated.append(case)
    result = {
        "machine": about,
        "arguments": vars(arguments),
        "batch_size": BATCH,
        "simulated": simulated,
        "real": [judged(stages, staleness, found[stages, staleness]) for stages, staleness in cases],
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2), f"\nwritten to {RESULT}")


async def turn(stages_ms: tuple[int, ...], max_staleness: int, num_steps: int) -> dict[str, Any]:
    """Milliseconds of every step after the first ones, and drawn trajectories by staleness."""
    sampler_s, teacher_s, learner_s = (each / 1e3 for each in stages_ms)
    sampler, teacher, learner = (
        TimedSampler(sampler_s / BATCH),
        TimedTeacher(teacher_s / BATCH),
        TimedLearner(learner_s),
    )
    taken_s: list[float] = []
    fleet = Fleet(
        Pool.of([clocked(sampler, "sample", taken_s)]),
        {"teacher": Pool.of([clocked(teacher, "score", taken_s)])},
        clocked(learner, "train", taken_s),
    )
    cpu_s = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        accounts = StepAccounts(max_steps=num_steps, metrics=FakeMetrics(), sinks=[])
        ring = make_ring(make_plan(max_staleness, num_steps), fleet, accounts, ledger=Ledger(Path(folder) / "ledger"))
        await run_ring(ring)
    times = learner.ended[WARM_UP_STEPS:]
    return {
        "mean_ms": (times[-1] - times[0]) / (len(times) - 1) * 1e3,
        "steps_ms": [(after - before) * 1e3 for before, after in pairwise(times)],
        "stages_took_ms": sum(taken_s) / num_steps * 1e3,
        "staleness": dict(ring.replay.staleness_counts),
        "evicted": ring.replay.counters["evicted"],
        "cpu_ms_per_step": (time.process_time() - cpu_s) / num_steps * 1e3,
    }


def judged(stages_ms: tuple[int, ...], max_staleness: int, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest round beside the bounds: others of this machine slow every round down, none speeds one up."""
    best = min(rounds, key=lambda each: each["mean_ms"])
    mean_ms = best["mean_ms"]
    median_ms = statistics.median(step for each in rounds for step in each["steps_ms"])
    slowest, total = max(stages_ms), sum(stages_ms)
    observed = max(int(key) for each in rounds for key in each["staleness"])
    sampler, teacher, learner = stages_ms
    # The last row of a batch leaves each stage so long after the first one entered the ring.
    through = max(sampler + teacher / BATCH, teacher + sampler / BATCH) + learner if max_staleness else total
    floor = max(slowest, through / (max_staleness + 1))
    reached = mean_ms <= (OVERLAPPED * slowest if max_staleness else SERIAL * total)
    return {
        "stages_ms": stages_ms,
        "max_staleness": max_staleness,
        "step_ms": round(mean_ms, 2),
        "median_step_ms": round(median_ms, 2),
        "rounds_ms": [round(each["mean_ms"], 2) for each in rounds],
        "over_slowest": round(mean_ms / slowest, 3),
        "over_sum": round(mean_ms / total, 3),
        # Where stages take turns: what is not theirs is the controller's.
        **({} if max_staleness else {"over_what_stages_took": round(mean_ms / best["stages_took_ms"], 3)}),
        "over_latency": round(mean_ms / floor, 3),
        "latency_ms": round(floor, 2),
        "cpu_ms_per_step": round(min(each["cpu_ms_per_step"] for each in rounds), 2),
        "staleness_observed": observed,
        "evicted": sum(each["evicted"] for each in rounds),
        "reached": reached and observed <= max_staleness,
    }


def make_plan(max_staleness: int, max_steps: int) -> Plan:
    rows = [RenderedRow(np.arange(3, 3 + PROMPT_TOKENS, dtype=np.int32) + row % 50, None) for row in range(1000)]
    return Plan(
        run="overlap",
        stream=PromptStream(rows, run="overlap", seed=0, shuffle=True),
        mixture=Mixture(1.0, "per_sequence", ScheduleConfig(), batch_size=BATCH, seed=0, max_steps=max_steps),
        sampling=SamplingParams(max_new_tokens=NEW_TOKENS),
        batch_size=BATCH,
        max_steps=max_steps,
        whole_steps=not max_staleness,
        max_staleness=max_staleness,
        max_uses=1,
        replay_capacity=max(2, max_staleness + 1) * BATCH,
        save_steps=0,
        sentinel_steps={},
        students=Path("students"),
    )


if __name__ == "__main__":
    main()
