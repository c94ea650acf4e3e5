"""What the loops of the ring share, and what they are to do."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gkd_dist.data.mixture import Mixture
from gkd_dist.data.prompts import PromptStream
from gkd_dist.interfaces import Fleet
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.baselines import Baseline
from gkd_dist.pipeline.gate import VersionGate
from gkd_dist.pipeline.judging import AnswerOf
from gkd_dist.pipeline.routing import TeachersOf
from gkd_dist.replay.buffer import ReplayBuffer
from gkd_dist.types import SamplingParams, StepReport, Trajectory


@dataclass(frozen=True)
class Reinforcement:
    """How rewards enter: what they are told, and what they are compared with."""

    answer_of: AnswerOf
    """The text of a student trajectory of the plan's stream, with its prompt and reference."""
    make_baseline: Callable[[], Baseline]


@dataclass(frozen=True)
class Plan:
    """What is to be done, apart from who does it."""

    stream: PromptStream
    mixture: Mixture
    sampling: SamplingParams
    batch_size: int
    max_steps: int
    max_staleness: int
    replay_capacity: int
    save_steps: int
    """0 saves no checkpoints."""
    sentinel_steps: Mapping[str, int]
    """Each teacher's golden sequences are scored again after so many steps; 0 is never."""
    checkpoints: Path
    """Folder that receives `step-N`."""
    reinforcement: Reinforcement | None = None
    """None where the objective asks for no reward."""
    teachers_of: TeachersOf | None = None
    """Who scores a sample of `stream`; None: every teacher scores every sample."""


@dataclass(frozen=True)
class Ring:
    """What the loops share."""

    plan: Plan
    fleet: Fleet
    accounts: StepAccounts
    gate: VersionGate
    replay: ReplayBuffer
    trajectories: asyncio.Queue[tuple[int, list[Trajectory]]]
    reports: asyncio.Queue[StepReport]
    baseline: Baseline | None = None
