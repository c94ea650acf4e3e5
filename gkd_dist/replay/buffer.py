"""Scored trajectories that wait for the learner (floor F2, pure asyncio).

What comes and goes is a group: all samples of one prompt, or one fixed pair; a group is never split. Two kinds wait
apart, each bounded by `capacity` trajectories: what the student wrote, and fixed pairs. A draw takes an exact number of
each, oldest stream position first.

Who waits, and who unblocks it:

    admit    waits while its kind is full      a draw that takes from the kind, an eviction
    draw     waits until both kinds suffice    admissions

No wait can last because of the buffer itself: a draw never asks for more than `batch_size`, which the constructor
keeps within the capacity of *each* kind, so a kind that is too short for the waiting draw has room; and what is too
stale leaves as soon as the newer version is known, so dead trajectories never hold a place.

A student's group may be drawn `max_uses` times. Fresh ones come first; used ones only fill what is missing, so that a
learner faster than its samplers need not wait. No draw contains a group twice, used ones age as fresh ones do, and they
hold no place: capacity bounds what waits for its first use.

Everything runs on one event loop; between two awaits a call is atomic.
"""

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gkd_dist.replay.groups import Admission, Drawn, Group, Kind
from gkd_dist.replay.sample_ids import SampleIdSet
from gkd_dist.replay.staleness import admissible, from_future, staleness
from gkd_dist.types import SampleId, ScoredTrajectory

Entry = tuple[SampleId, Group]
"""Under the id of the group's first trajectory."""


@dataclass(frozen=True, slots=True)
class _Used:
    """A group with its last use."""

    group: Group
    use: int


class ReplayBuffer:
    """Takes each sample id once per run, and never hands out what is staler than `max_staleness`.

    Args:
        capacity: most trajectories of each kind that wait, at least `batch_size`.
        max_staleness: train steps, see `replay/staleness.py`.
        batch_size: most that one draw asks for.
        max_uses: draws that one student trajectory may take part in.
        on_evict: called with each group that was admitted, became too stale and was never drawn, so that the caller
            issues its prompt again as a higher attempt. Plain function; called inside `admit` or `draw`, so it must
            not wait.
        drawn: ids that a former attempt of the run has trained on.

    Raises:
        ValueError: capacity below batch_size (a draw could wait for ever), or a number out of range.

    Example:
        replay = ReplayBuffer(16, 0, batch_size=8, on_evict=reissue)
        await replay.admit([scored], now_version=3)
        batch = await replay.draw(num_student=8, num_fixed=0, version=3)
    """

    def __init__(
        self,
        capacity: int,
        max_staleness: int,
        *,
        batch_size: int,
        max_uses: int = 1,
        on_evict: Callable[[Group], None] = lambda _: None,
        drawn: SampleIdSet | None = None,
    ) -> None:
        if batch_size < 1 or max_staleness < 0 or max_uses < 1:
            raise ValueError(
                "need batch_size >= 1, max_staleness >= 0 and max_uses >= 1, got "
                f"{batch_size}, {max_staleness} and {max_uses}"
            )
        if capacity < batch_size:
            raise ValueError(f"a capacity of {capacity} could never fill a batch of {batch_size}; raise it")
        self._capacity = capacity
        self._max_staleness = max_staleness
        self._batch_size = batch_size
        self._max_uses = max_uses
        self._on_evict = on_evict
        self._drawn = drawn or SampleIdSet()
        self._waiting: dict[Kind, list[Entry]] = {kind: [] for kind in Kind}
        self._num_waiting = dict.fromkeys(Kind, 0)
        """Trajectories, not groups."""
        self._used: list[_Used] = []
        """What may be drawn again."""
        self._ids: set[SampleId] = set()
        self._evicted_attempts: dict[SampleId, int] = {}
        self._lines: dict[Kind, deque[object]] = {kind: deque() for kind in Kind}
        self._version = 0
        self._changed = asyncio.Event()
        self.counters: Counter[str] = Counter()
        """Trajectories by fate: the values of `Admission`, `evicted`, `drawn`, and `drawn_again` among them."""
        self.staleness_counts: Counter[int] = Counter()
        """Drawn student trajectories by staleness, train steps."""

    @property
    def num_student(self) -> int:
        """Student trajectories waiting for their first use."""
        return self._num_waiting[Kind.STUDENT]

    @property
    def num_fixed(self) -> int:
        """Fixed pairs waiting."""
        return self._num_waiting[Kind.FIXED]

    @property
    def depth(self) -> int:
        """Trajectories waiting, both kinds."""
        return self.num_student + self.num_fixed

    @property
    def drawn(self) -> SampleIdSet:
        """Ids handed out so far, those of former attempts of the run included."""
        return SampleIdSet(self._drawn.ranges())

    async def admit(self, group: Sequence[ScoredTrajectory], now_version: int) -> Admission:
        """Store a group, or say why not; waits while its kind is full, in order of arrival.

        A refusal does not wait for space. Cancelled while it waits, the call stores nothing.

        Args:
            now_version: the learner's version, as far as the caller knows.
        """
        group = tuple(sorted(group, key=_id_of))
        kind = Kind.of(group[0])
        self._learn_version(now_version)
        place = object()
        self._lines[kind].append(place)
        try:
            while True:
                verdict = self._verdict(group)
                if verdict is not Admission.ADMITTED or (
                    self._lines[kind][0] is place and self._has_space(kind, len(group))
                ):
                    break
                await self._changed.wait()
        finally:
            self._lines[kind].remove(place)
            self._wake()
        self.counters[verdict] += len(group)
        if verdict is Admission.ADMITTED:
            heapq.heappush(self._waiting[kind], (_id_of(group[0]), group))
            self._num_waiting[kind] += len(group)
            self._ids.update(map(_id_of, group))
        return verdict

    async def draw(self, num_student: int, num_fixed: int, version: int) -> list[Drawn]:
        """Exactly so many of each kind, in stream order; waits until they are there.

        Those of lowest stream position are taken; where fresh student groups do not suffice, used ones fill up, the
        least used first. Nothing is taken before all are there, so a cancelled call takes nothing.

        Args:
            version: the learner's version; what is too stale for it is evicted first.

        Raises:
            ValueError: negative numbers, none at all, more than `batch_size` together, or a number that splits groups.
        """
        if min(num_student, num_fixed) < 0 or not 1 <= num_student + num_fixed <= self._batch_size:
            raise ValueError(f"cannot draw {num_student} + {num_fixed} for a batch of {self._batch_size}")
        self._learn_version(version)
        while self.num_student + self._num_reusable < num_student or self.num_fixed < num_fixed:
            await self._changed.wait()
        again = self._take_again(max(0, num_student - self.num_student))
        student = self._take(Kind.STUDENT, num_student - sum(len(used.group) for used in again)) + again
        self._used += [used for used in student if used.use < self._max_uses]
        taken = sorted(student + self._take(Kind.FIXED, num_fixed), key=lambda used: _id_of(used.group[0]))
        return [Drawn(scored, used.use) for used in taken for scored in used.group]

    @property
    def _num_reusable(self) -> int:
        return sum(len(used.group) for used in self._used)

    def _take(self, kind: Kind, number: int) -> list[_Used]:
        """The first groups, `number` trajectories together, for their first use."""
        taken = []
        while number > 0:
            _, group = heapq.heappop(self._waiting[kind])
            number -= len(group)
            self._leave(group)
            self._drawn.update(map(_id_of, group))
            taken.append(_Used(group, 1))
        self._count("drawn", taken, number)
        return taken

    def _take_again(self, number: int) -> list[_Used]:
        """The least used groups, `number` trajectories together, taken out of `_used`."""
        self._used.sort(key=lambda used: (used.use, _id_of(used.group[0])))
        taken = []
        while number > 0:
            used = self._used.pop(0)
            number -= len(used.group)
            taken.append(_Used(used.group, used.use + 1))
        self._count("drawn_again", taken, number)
        return taken

    def _count(self, fate: str, taken: Sequence[_Used], left: int) -> None:
        if left < 0:
            raise ValueError("the number asked for would split the samples of a prompt")
        for used in taken:
            self.counters[fate] += len(used.group)
            for scored in used.group:
                if scored.trajectory.versions is not None:
                    self.staleness_counts[staleness(scored.trajectory.versions, self._version)] += 1

    def _has_space(self, kind: Kind, num_more: int) -> bool:
        return self._num_waiting[kind] + num_more <= self._capacity

    def _verdict(self, group: Group) -> Admission:
        ids = [_id_of(scored) for scored in group]
        if any(sample_id in self._ids or sample_id in self._drawn for sample_id in ids):
            return Admission.DUPLICATE
        if any(scored.trajectory.attempt <= self._evicted_attempts.get(_id_of(scored), -1) for scored in group):
            return Admission.DUPLICATE
        if any(from_future(scored.trajectory.versions, self._version) for scored in group):
            return Admission.FROM_FUTURE
        return Admission.ADMITTED if self._usable(group) else Admission.TOO_STALE

    def _usable(self, group: Group) -> bool:
        return all(admissible(scored.trajectory.versions, self._version, self._max_staleness) for scored in group)

    def _learn_version(self, version: int) -> None:
        """Versions never fall: the newest that anyone has told counts, and evicts what is too stale for it."""
        if version <= self._version:
            return
        self._version = version
        self._used = [used for used in self._used if self._usable(used.group)]
        stale: list[Group] = []
        fresh: list[Entry] = []
        for sample_id, group in sorted(self._waiting[Kind.STUDENT], key=lambda entry: entry[0]):
            if self._usable(group):
                fresh.append((sample_id, group))
            else:
                stale.append(group)
        self._waiting[Kind.STUDENT] = fresh  # sorted, hence a heap
        for group in stale:
            self._leave(group)
            self._evicted_attempts.update({_id_of(scored): scored.trajectory.attempt for scored in group})
            self.counters["evicted"] += len(group)
        self._wake()
        for group in stale:
            self._on_evict(group)

    def _leave(self, group: Group) -> None:
        self._num_waiting[Kind.of(group[0])] -= len(group)
        for sample_id in map(_id_of, group):
            self._ids.remove(sample_id)
            self._evicted_attempts.pop(sample_id, None)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _id_of(scored: ScoredTrajectory) -> SampleId:
    return scored.trajectory.sample_id
