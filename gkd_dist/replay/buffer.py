"""Scored trajectories that wait for the learner (floor F2, pure asyncio).

Two kinds wait apart, each bounded by `capacity`: what the student wrote, and fixed pairs. A draw takes an exact number
of each, oldest stream position first.

Who waits, and who unblocks it:

    admit            waits while its kind is full      a draw that takes from the kind, an eviction, close
    wait_for_space   the same, without a trajectory    the same
    draw             waits until both kinds suffice    admissions, close

No wait can last because of the buffer itself: a draw never asks for more than `batch_size`, which the constructor
keeps within the capacity of *each* kind, so a kind that is too short for the waiting draw has room; and what is too
stale leaves as soon as the newer version is known, so dead trajectories never hold a place.

Everything runs on one event loop; between two awaits a call is atomic.
"""

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum

from gkd_dist.errors import GkdError
from gkd_dist.replay.sample_ids import SampleIdSet
from gkd_dist.replay.staleness import admissible, from_future, staleness
from gkd_dist.types import SampleId, ScoredTrajectory, Source

Entry = tuple[SampleId, ScoredTrajectory]


class Kind(StrEnum):
    """Which of the two stores of the mixture a trajectory belongs to."""

    STUDENT = "student"
    FIXED = "fixed"

    @classmethod
    def of(cls, scored: ScoredTrajectory) -> "Kind":
        return cls.STUDENT if scored.trajectory.source is Source.STUDENT else cls.FIXED


class Admission(StrEnum):
    """What became of an offered trajectory; everything but ADMITTED means it was thrown away."""

    ADMITTED = "admitted"
    DUPLICATE = "duplicate"
    """Its id waits here already, has been drawn, or was evicted in this or a later attempt. Do not re-issue it."""
    TOO_STALE = "too_stale"
    """Issue its prompt again, as a higher attempt."""
    FROM_FUTURE = "from_future"
    """A version that the learner has not reached wrote it: a former attempt of the run is still sampling."""


class ReplayClosedError(GkdError):
    """The replay buffer was closed; nothing more goes in or out."""


class ReplayBuffer:
    """Takes each sample id once per run, and never hands out what is staler than `max_staleness`.

    Args:
        capacity: most trajectories of each kind that wait, at least `batch_size`.
        max_staleness: train steps, see `replay/staleness.py`.
        batch_size: most that one draw asks for.
        on_evict: called with each trajectory that was admitted and became too stale, so that the caller issues its
            prompt again as a higher attempt. Plain function; called inside `admit` or `draw`, so it must not wait.
        drawn: ids that a former attempt of the run has trained on.

    Raises:
        ValueError: capacity below batch_size (a draw could wait for ever), or a negative number.

    Example:
        replay = ReplayBuffer(16, 0, batch_size=8, on_evict=reissue)
        await replay.admit(scored, now_version=3)
        batch = await replay.draw(num_student=8, num_fixed=0, version=3)
    """

    def __init__(
        self,
        capacity: int,
        max_staleness: int,
        *,
        batch_size: int,
        on_evict: Callable[[ScoredTrajectory], None] = lambda _: None,
        drawn: SampleIdSet | None = None,
    ) -> None:
        if batch_size < 1 or max_staleness < 0:
            raise ValueError(f"need batch_size >= 1 and max_staleness >= 0, got {batch_size} and {max_staleness}")
        if capacity < batch_size:
            raise ValueError(f"a capacity of {capacity} could never fill a batch of {batch_size}; raise it")
        self._capacity = capacity
        self._max_staleness = max_staleness
        self._batch_size = batch_size
        self._on_evict = on_evict
        self._drawn = drawn or SampleIdSet()
        self._waiting: dict[Kind, list[Entry]] = {kind: [] for kind in Kind}
        self._ids: set[SampleId] = set()
        self._evicted_attempts: dict[SampleId, int] = {}
        self._lines: dict[Kind, deque[object]] = {kind: deque() for kind in Kind}
        self._version = 0
        self._closed = False
        self._changed = asyncio.Event()
        self.counters: Counter[str] = Counter()
        """Trajectories by fate: the values of `Admission`, `evicted` and `drawn`."""
        self.staleness_counts: Counter[int] = Counter()
        """Drawn student trajectories by staleness, train steps."""

    @property
    def num_student(self) -> int:
        """Student trajectories waiting."""
        return len(self._waiting[Kind.STUDENT])

    @property
    def num_fixed(self) -> int:
        """Fixed pairs waiting."""
        return len(self._waiting[Kind.FIXED])

    @property
    def depth(self) -> int:
        """Trajectories waiting, both kinds."""
        return self.num_student + self.num_fixed

    @property
    def drawn(self) -> SampleIdSet:
        """Ids handed out so far, those of former attempts of the run included."""
        return SampleIdSet(self._drawn.ranges())

    async def admit(self, scored: ScoredTrajectory, now_version: int) -> Admission:
        """Store a trajectory, or say why not; waits while its kind is full, in order of arrival.

        A refusal does not wait for space. Cancelled while it waits, the call stores nothing.

        Args:
            now_version: the learner's version, as far as the caller knows.

        Raises:
            ReplayClosedError: closed before the trajectory was stored.
        """
        kind = Kind.of(scored)
        self._learn_version(now_version)
        place = object()
        self._lines[kind].append(place)
        try:
            while True:
                self._check_open()
                verdict = self._verdict(scored)
                if verdict is not Admission.ADMITTED or (self._lines[kind][0] is place and self._has_space(kind)):
                    break
                await self._changed.wait()
        finally:
            self._lines[kind].remove(place)
            self._wake()
        self.counters[verdict] += 1
        if verdict is Admission.ADMITTED:
            sample_id = scored.trajectory.sample_id
            heapq.heappush(self._waiting[kind], (sample_id, scored))
            self._ids.add(sample_id)
        return verdict

    async def wait_for_space(self, kind: Kind) -> None:
        """Returns when an admission of `kind` would not wait; reserves nothing.

        Raises:
            ReplayClosedError: the buffer is or gets closed.
        """
        self._check_open()
        while not self._has_space(kind) or self._lines[kind]:
            await self._changed.wait()
            self._check_open()

    async def draw(self, num_student: int, num_fixed: int, version: int) -> list[ScoredTrajectory]:
        """Exactly so many of each kind, those of lowest stream position, in stream order; waits until they are there.

        Nothing is taken before all are there, so a cancelled call takes nothing.

        Args:
            version: the learner's version; what is too stale for it is evicted first.

        Raises:
            ValueError: negative numbers, none at all, or more than `batch_size` together.
            ReplayClosedError: closed before the draw was complete.
        """
        if min(num_student, num_fixed) < 0 or not 1 <= num_student + num_fixed <= self._batch_size:
            raise ValueError(f"cannot draw {num_student} + {num_fixed} for a batch of {self._batch_size}")
        self._learn_version(version)
        self._check_open()
        while self.num_student < num_student or self.num_fixed < num_fixed:
            await self._changed.wait()
            self._check_open()
        taken = [heapq.heappop(self._waiting[Kind.STUDENT]) for _ in range(num_student)]
        taken += [heapq.heappop(self._waiting[Kind.FIXED]) for _ in range(num_fixed)]
        taken.sort(key=lambda entry: entry[0])
        for sample_id, scored in taken:
            self._leave(sample_id)
            self._drawn.add(sample_id)
            if scored.trajectory.versions is not None:
                self.staleness_counts[staleness(scored.trajectory.versions, self._version)] += 1
        self.counters["drawn"] += len(taken)
        return [scored for _, scored in taken]

    def close(self) -> None:
        """Wakes every waiter; each of them, and every later call, raises ReplayClosedError. Closing twice is fine."""
        self._closed = True
        self._wake()

    def _check_open(self) -> None:
        if self._closed:
            raise ReplayClosedError("the replay buffer is closed")

    def _has_space(self, kind: Kind) -> bool:
        return len(self._waiting[kind]) < self._capacity

    def _verdict(self, scored: ScoredTrajectory) -> Admission:
        trajectory = scored.trajectory
        sample_id = trajectory.sample_id
        if sample_id in self._ids or sample_id in self._drawn:
            return Admission.DUPLICATE
        if trajectory.attempt <= self._evicted_attempts.get(sample_id, -1):
            return Admission.DUPLICATE
        if from_future(trajectory.versions, self._version):
            return Admission.FROM_FUTURE
        if not admissible(trajectory.versions, self._version, self._max_staleness):
            return Admission.TOO_STALE
        return Admission.ADMITTED

    def _learn_version(self, version: int) -> None:
        """Versions never fall: the newest that anyone has told counts, and evicts what is too stale for it."""
        if version <= self._version:
            return
        self._version = version
        stale: list[Entry] = []
        fresh: list[Entry] = []
        for sample_id, scored in sorted(self._waiting[Kind.STUDENT], key=lambda entry: entry[0]):
            usable = admissible(scored.trajectory.versions, version, self._max_staleness)
            (fresh if usable else stale).append((sample_id, scored))
        self._waiting[Kind.STUDENT] = fresh  # sorted, hence a heap
        for sample_id, scored in stale:
            self._leave(sample_id)
            self._evicted_attempts[sample_id] = scored.trajectory.attempt
        self.counters["evicted"] += len(stale)
        self._wake()
        for _, scored in stale:
            self._on_evict(scored)

    def _leave(self, sample_id: SampleId) -> None:
        self._ids.remove(sample_id)
        self._evicted_attempts.pop(sample_id, None)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
