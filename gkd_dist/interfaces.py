"""The ring's parts as Protocols (floor F1). `pipeline/` knows only these.

Rules that hold for every one of them:

* Ordering: results come back in the order of the arguments.
* Concurrency: calls of one object may overlap unless its docstring says otherwise.
* Cancellation: a cancelled call has no effect on later ones; its work may still finish and is thrown away.
* Death of the other side: raises `EngineError` (a subclass may say more); never hangs beyond the deadline of the
  proxy, which raises `DeadlineError`.
* All calls are coroutines and block nothing but themselves.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from gkd_dist.checks import TeacherCheck
from gkd_dist.targets import CacheUse, TargetsHandle, TeacherTargets
from gkd_dist.types import (
    Answer,
    DivergenceReport,
    Kept,
    Prompt,
    SampleId,
    SamplingParams,
    ScoredTrajectory,
    StepReport,
    TrainBatch,
    Trajectory,
    WeightPublication,
)

logger = logging.getLogger(__name__)

Replica = TypeVar("Replica", covariant=True)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Sampler(Protocol):
    """Writes completions with the student.

    publication = await learner.publish()
    version = await sampler.load_weights(publication)
    trajectories = await sampler.sample(prompts, params)
    """

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        """One student trajectory per prompt, with behaviour log-probs and the exact version range.

        The random stream of each sample depends on (params.seed, sample id) alone, not on its neighbours.
        """
        ...

    async def load_weights(self, publication: WeightPublication) -> int:
        """Make `publication` the policy; returns its version once the next token is written by it.

        Raises:
            WeightsError: digests or names do not match; the former weights stay in place where the engine can
                still serve them, otherwise the sampler refuses to sample.
        """
        ...

    async def ping(self) -> None:
        """Cheap sign of life: the engine behind this part, not only its shell, can still work.

        Raises:
            EngineError: it cannot.
        """
        ...

    async def close(self) -> None: ...


class Scorer(Protocol):
    """Scores trajectories with a frozen model: what every teacher engine does."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
        """What this teacher says about the completion tokens of each trajectory."""
        ...

    async def ping(self) -> None:
        """As `Sampler.ping`."""
        ...

    async def close(self) -> None: ...


class Teacher(Scorer, Protocol):
    """A scorer that can be asked whether it still answers as it should."""

    async def verify(self) -> TeacherCheck:
        """Score golden sequences and compare with what this teacher should say; a check that fails is not raised."""
        ...

    async def complete(
        self, drafts: Sequence[Trajectory], max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        """What this teacher itself would answer to the drafts' prompts, greedily; empty where it cannot tell."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A teacher that keeps what it said about fixed pairs."""

    def cache_use(self) -> CacheUse:
        """Since the last call of this."""
        ...


@runtime_checkable
class Timed(Protocol):
    """A part that knows what its answers took where they were made."""

    def time_spent(self) -> Mapping[str, float]:
        """Seconds of work since the last call of this, added up over calls: by call (`sample`, `score`, `load`), and by
        what was done in it (`load_paused`)."""
        ...


class Reward(Protocol):
    """Says how good an answer is: the higher, the better."""

    async def judge(self, answers: Sequence[Answer]) -> list[float]:
        """One finite number per answer.

        Raises:
            EngineError: it cannot be computed, or is not a finite number.
        """
        ...

    async def close(self) -> None: ...


class Learner(Protocol):
    """Owns the student's parameters and the optimizer. Calls must not overlap.

    It is never pinged: that it died or hangs shows at its next answer, which has a deadline.
    """

    async def train(self, batch: TrainBatch) -> StepReport:
        """One optimizer step; the policy version grows by one."""
        ...

    async def evaluate(self, batch: TrainBatch) -> DivergenceReport:
        """Divergences on `batch` without a gradient; changes nothing."""
        ...

    async def publish(self) -> WeightPublication:
        """The current weights as a publication of the current policy version."""
        ...

    async def save(self, path: Path) -> None:
        """Write the student so that transformers and vLLM load it unchanged. `path` appears whole or not at all."""
        ...

    async def snapshot(self) -> int:
        """Keep a copy of everything that the next step depends on (parameters, optimizer, schedule, random state,
        policy version); returns the version. A later snapshot replaces it."""
        ...

    async def write_snapshot(self, folder: Path) -> None:
        """Write the snapshot into `folder`, which exists and is empty; files are flushed to disk when this returns.

        May overlap with every other call, also with `train`, and does not see its effects. It has no deadline but that
        of its caller, who cancels it.
        """
        ...

    async def restore(self, folder: Path) -> int:
        """Go on from what `write_snapshot` wrote; returns its policy version.

        Raises:
            ModelError: the files are of another student, optimizer or kind of training; says which.
        """
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Placed(Protocol):
    """A part in processes of its own: a learner, a reward or a journal on a cluster."""

    @property
    def places(self) -> Sequence[Mapping[str, str | int]]:
        """`pid` and `node` of each process, in the order of ranks; without those that are not known yet."""
        ...


@dataclass(frozen=True)
class SlotView:
    """One place of a role, as others see it."""

    slot: int
    state: str
    num_restarts: int
    place: Mapping[str, str | int]
    """`pid` and `node` of what runs in it; empty where nothing does, or in this process."""
    problem: str = ""
    """Why nothing does: what its start waits for, or what ended the last one."""


class Replicas(Protocol[Replica]):
    """Interchangeable parts of one role, of which some may be dead: what `supervision.pool.Pool` is.

    Every call of a part goes through here, so that one that dies is replaced and its request goes elsewhere.
    """

    @property
    def target(self) -> int:
        """How many there should be."""
        ...

    @property
    def serving(self) -> Mapping[int, Replica]:
        """Those that may be asked now, by slot, in order."""
        ...

    @property
    def states(self) -> Mapping[int, str]:
        """By slot."""
        ...

    @property
    def slots(self) -> Sequence[SlotView]:
        """All of them, in order."""
        ...

    @property
    def events(self) -> Sequence[Any]:
        """The newest changes of state, oldest first: `supervision.health.Event`."""
        ...

    @property
    def num_outstanding(self) -> int:
        """Requests that replicas work on."""
        ...

    @property
    def num_waiting(self) -> int:
        """Requests that wait until a replica has room."""
        ...

    @property
    def busy_s(self) -> float:
        """Seconds in which a replica had something in hand, added up over all replicas there ever were."""
        ...

    @property
    def num_done(self) -> int:
        """Requests and obligations that came to an end so far, however: it grows while anything moves."""
        ...

    async def start(self) -> None:
        """All of the target at once; after a failure nothing is left running."""
        ...

    async def supervise(self) -> None:
        """Endless: probe, restart, catch up, scale, drain."""
        ...

    async def call(self, work: Callable[[Replica], Awaitable[Result]], what: str) -> Result:
        """`work` on one of them, and elsewhere after a failure that is not the request's.

        Raises:
            RoleLostError: none serves, or came back in time.
        """
        ...

    async def spread(
        self, items: Sequence[Item], call: Callable[[Replica, Sequence[Item]], Awaitable[list[Result]]]
    ) -> list[Result]:
        """Results of `call` over all items, in their order; each of those that serve gets an equal, contiguous share.

        Which slot serves which item depends on the order alone, so a run without failures repeats for a seed.
        """
        ...

    async def bring_up(self, obligation: Callable[[Replica], Awaitable[object]]) -> None:
        """Run `obligation` on all that serve; one that joins later does the newest before it serves."""
        ...

    def require(self, obligation: Callable[[Replica], Awaitable[object]], done_by: Collection[Any]) -> None:
        """As `bring_up`, for all but those that have done it: one that joined meanwhile does it before it serves on."""
        ...

    def set_target(self, num_replicas: int) -> None:
        """`supervise` gets there."""
        ...

    async def close(self) -> None: ...


class Journal(Protocol):
    """Keeps scored trajectories until a checkpoint holds the step that trained on them."""

    async def read(
        self, finished: Container[SampleId] = frozenset(), progressed: Callable[[], object] = lambda: None
    ) -> Kept:
        """All that are kept but the `finished` ones, the newest attempt of each, in the order of writing; call it
        before the first append. It may take as long as the files are long, while it goes on: `progressed` is called
        again and again, on any thread."""
        ...

    async def append(self, scored: Sequence[ScoredTrajectory]) -> None:
        """Returns once they are in the file, which outlives every process; `sync` makes it outlive the machine.

        Raises:
            OSError, EngineError: not written (the disk is full, say; its process died), or not all of them.
            WireError: one cannot be written; those before it are.
            DeadlineError: it does not answer.
            LostTargetsError: targets behind a handle are gone.
        """
        ...

    async def sync(self) -> None:
        """Returns once everything appended is on the disk, by this process and those before it."""
        ...

    async def forget(self, finished: Container[SampleId]) -> None:
        """Let go of samples that a checkpoint holds as trained, or that were given up; others may stay with them."""
        ...

    async def keep_only(self, wanted: Collection[SampleId], progressed: Callable[[], object] = lambda: None) -> None:
        """Let go of everything but these samples, also of appends that are still on their way. It may take its time, as
        `read`.

        For a run that goes back to a checkpoint: later versions will come a second time with other weights, so nothing
        that the first ones wrote may be read again.

        Raises:
            OSError, EngineError, DeadlineError: what was to go may still be there.
        """
        ...

    async def close(self) -> None: ...


class Metrics(Protocol):
    """Where the pipeline's numbers go; names are those of `metrics/catalogue.py`."""

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None: ...

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...


class RecordSink(Protocol):
    """Where one record per train step goes (`metrics.jsonl`, the status line)."""

    def write(self, record: dict[str, float | int | str]) -> None: ...

    def close(self) -> None: ...
