"""What the loops of the ring share, and what they are to do."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gkd_dist.data.mixture import Mixture
from gkd_dist.data.prompts import PromptStream
from gkd_dist.fleet import Fleet
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.baselines import Baseline
from gkd_dist.pipeline.checkpointing import Checkpointer
from gkd_dist.pipeline.intake import Intake
from gkd_dist.pipeline.judging import AnswerOf
from gkd_dist.pipeline.keeping import Keeper
from gkd_dist.pipeline.progress import Progress
from gkd_dist.pipeline.routing import TeachersOf
from gkd_dist.pipeline.sentinel import Sentinel
from gkd_dist.pipeline.step_under_way import StepUnderWay
from gkd_dist.replay.buffer import ReplayBuffer
from gkd_dist.replay.groups import Kind
from gkd_dist.replay.ledger import Ledger
from gkd_dist.supervision.budgets import Budgets
from gkd_dist.types import SamplingParams, Source, StepReport, WeightPublication


@dataclass(frozen=True)
class Reinforcement:
    """How rewards enter: what they are told, and what they are compared with."""

    answer_of: AnswerOf
    """The text of a student trajectory of the plan's stream, with its prompt and reference."""
    make_baseline: Callable[[float | None], Baseline]
    """From the state of a checkpoint; None at the beginning."""


@dataclass(frozen=True)
class Plan:
    """What is to be done, apart from who does it."""

    run: str
    stream: PromptStream
    mixture: Mixture
    sampling: SamplingParams
    batch_size: int
    max_steps: int
    whole_steps: bool
    """Each step is sampled and scored as one (Algorithm 1); else every row goes round by itself."""
    max_staleness: int
    max_uses: int
    replay_capacity: int
    save_steps: int
    """0 saves no students on the way."""
    sentinel_steps: Mapping[str, int]
    """Each teacher's golden sequences are scored again after so many steps and at the end; 0 is never."""
    students: Path
    """Folder that receives `step-N`."""
    reinforcement: Reinforcement | None = None
    """None where the objective asks for no reward."""
    fixed_source: Source = Source.GROUND_TRUTH
    """Who wrote the completions of `stream`."""
    teachers_of: TeachersOf | None = None
    """Who scores a sample of `stream`; None: every teacher scores every sample."""
    is_evaluated: bool = True
    """Whether samplers answer held-out prompts after the last step."""

    def asks_for(self, version: int) -> bool:
        """Whether anybody may sample with the weights of `version`: the last evaluation does, and whoever answers the
        prompts that are given out while it is live. Where steps are given out whole and none ahead, these are the
        prompts of the step `version` alone, and the coin may want none."""
        if version == self.max_steps:
            return self.is_evaluated
        if self.whole_steps and self.max_staleness == 0:
            return self.mixture.num_student(version) > 0
        return self.mixture.needs_student


@dataclass(frozen=True)
class Ring:
    """What the loops share."""

    plan: Plan
    fleet: Fleet
    accounts: StepAccounts
    progress: Progress
    ledger: Ledger
    attempt: int
    """Of the run: how often it was started before."""
    budgets: Budgets
    max_losses: int
    """Times that one row may be lost."""
    intake: Intake
    replay: ReplayBuffer
    sentinel: Sentinel
    keeper: Keeper
    """Writes scored sequences to the journal."""
    stop: asyncio.Event
    """Set when the run is asked to stop: the step in progress is finished, and no other begun."""
    published: asyncio.Queue[tuple[StepReport, WeightPublication | None]]
    """Steps that are trained; without weights where nobody asks for them."""
    checkpointer: Checkpointer | None = None
    """None where nothing is to be continued later."""
    baseline: Baseline | None = None
    step_under_way: StepUnderWay = field(default_factory=StepUnderWay)
    losses: Counter[int] = field(default_factory=Counter)
    """Of rows that are on their way, by index."""

    def repeats(self, kind: Kind) -> range:
        """Samples of one row."""
        return range(self.plan.mixture.num_generations if kind is Kind.STUDENT else 1)
