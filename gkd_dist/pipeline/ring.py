"""What the loops of the ring share, and what they are to do."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gkd_dist.data.mixture import Mixture
from gkd_dist.data.prompts import PromptStream
from gkd_dist.errors import plain
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Journal
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.baselines import Baseline
from gkd_dist.pipeline.checkpointing import Checkpointer
from gkd_dist.pipeline.intake import Intake
from gkd_dist.pipeline.judging import AnswerOf
from gkd_dist.pipeline.progress import Progress
from gkd_dist.pipeline.routing import TeachersOf
from gkd_dist.pipeline.sentinel import Sentinel
from gkd_dist.replay.buffer import ReplayBuffer
from gkd_dist.replay.groups import Group, Kind
from gkd_dist.replay.ledger import Ledger
from gkd_dist.supervision.failures import Budgets
from gkd_dist.types import SamplingParams, Source, StepReport, WeightPublication

logger = logging.getLogger(__name__)

MAX_PENDING_BYTES = 256 << 20
"""Of targets on their way into the journal, apart from one append of any size."""
LAST_APPENDS_S = 5.0
"""What they may take when the ring has ended."""


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
    stop: asyncio.Event
    """Set when the run is asked to stop: the step in progress is finished, and no other begun."""
    published: asyncio.Queue[tuple[StepReport, WeightPublication]]
    checkpointer: Checkpointer | None = None
    """None where nothing is to be continued later."""
    journal: Journal | None = None
    """Keeps scored sequences until a checkpoint holds the step that trained on them."""
    baseline: Baseline | None = None
    losses: Counter[int] = field(default_factory=Counter)
    """Of rows that are on their way, by index."""
    kept: dict[asyncio.Task[None], int] = field(default_factory=dict)
    """What is on its way into the journal, with the bytes of its targets."""

    def repeats(self, kind: Kind) -> range:
        """Samples of one row."""
        return range(self.plan.mixture.num_generations if kind is Kind.STUDENT else 1)

    def keep(self, groups: Sequence[Group]) -> None:
        """Write scored groups to the journal; nobody waits for it. What is lost in a crash is scored again.

        Where the journal is the slower one, some are left out: until they are written they hold memory of the object
        store.
        """
        if self.journal is None or not groups:
            return
        scored = [item for group in groups for item in group]
        num_bytes = sum(score.targets.num_bytes for item in scored for score in item.scores)
        if self.kept and sum(self.kept.values()) + num_bytes > MAX_PENDING_BYTES:
            if not self.accounts.num_not_kept:
                logger.warning("the journal is slower than the ring: after a crash, what it misses is done again")
            self.accounts.not_kept(len(scored))
            return
        task = asyncio.create_task(self.journal.append(scored))
        self.kept[task] = num_bytes
        task.add_done_callback(self._kept)

    async def end_keeping(self) -> None:
        """Wait a little for what is on its way into the journal; then no append is under way."""
        if self.kept:
            await asyncio.wait(self.kept, timeout=LAST_APPENDS_S)
            late = list(self.kept)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _kept(self, task: asyncio.Task[None]) -> None:
        self.kept.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            logger.warning("scored sequences did not get into the journal: %s", plain(task.exception()))
