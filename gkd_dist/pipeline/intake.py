"""The intake: which row of the stream goes into the ring next, and when.

A row is a prompt that the student answers, or a fixed pair. Of each kind so many rows may be in the ring (sampled,
scored, waiting) or trained on but not yet live, as the next `max_staleness + 1` steps ask for:

    issued <= trained before the live version + demand of the steps live ... live + max_staleness

so a place is freed only when the weights that learned from it are live on every sampler.

Staleness: let a row be issued while version v is live. Every token of its answer is written by v or a newer version.
The rows issued before it and not trained by v, and itself, are at most the demand of the steps v ... v + max_staleness,
so in order of issue it is drawn at one of these, with a staleness of at most max_staleness. Later rows that finish
earlier may be drawn before it; then it may become too old. The replay evicts it (`replay/staleness.py`), counts it, and
hands it back to `issue_again`: the same row, with a higher attempt, in its old place. One that was too old twice holds
back all younger ones, so that the proof holds for it: long answers are not put off to the end of the run.

The numbers that each step draws are those of the mixture (`data/mixture.py`) whatever is refused, dropped or issued
again: rows are counted by kind, and a dropped row is replaced by a spare one from behind the last step.
"""

import asyncio
import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from gkd_dist.data.mixture import Mixture
from gkd_dist.replay.groups import Group, Kind

_TOO_LATE = 2
"""The attempt from which a row holds back all younger ones until it has arrived."""


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """One row of the stream on its way through the ring."""

    index: int
    """Position in the stream."""
    kind: Kind = field(compare=False)
    attempt: int = 0


class Intake:
    """Gives out rows as far as the live version allows; everything runs on one event loop.

    Args:
        batch_size: sequences per step.
        max_steps: length of the run.
        max_staleness: steps that may be issued ahead of the live version.
        step: the first step of this start; its version is live.
        is_taken: whether a row was trained on or dropped before this start.
        whole_steps: wait until everything of a step may go, and give it out at once (Algorithm 1); else row by row.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        batch_size: int,
        max_steps: int,
        max_staleness: int,
        step: int = 0,
        is_taken: Callable[[int], bool] = lambda _: False,
        whole_steps: bool = False,
    ) -> None:
        self._mixture = mixture
        self._batch_size = batch_size
        self._max_steps = max_steps
        self._max_staleness = max_staleness
        self._is_taken = is_taken
        self._whole_steps = whole_steps
        self.version = step
        """The newest policy version that is live on every sampler."""
        self._issued = dict.fromkeys(Kind, 0)
        self._trained = dict.fromkeys(Kind, 0)
        self._trained_before: dict[int, dict[Kind, int]] = {step: dict(self._trained)}
        """By version: rows that it learned from, over all steps of this start."""
        self._allowed = self._most()
        """Rows that may be issued over all steps of this start, while this version is live."""
        self._again: list[Row] = []
        self._adopted: set[int] = set()
        self._spares = count(mixture.first_position(max_steps))
        self._rows = {kind: self._rows_of(kind) for kind in Kind}
        self._changed = asyncio.Event()
        self.in_flight: set[Row] = set()
        """Given out, and not yet in the replay."""
        self._late: set[Row] = set()
        """Those of them that hold back all younger ones."""

    async def next(self) -> list[Row]:
        """The rows that go in now, at least one; waits until one may."""
        while not self._may_issue():
            await self._changed.wait()
        rows = self._choose()
        self.in_flight.update(rows)
        self._late.update(row for row in rows if row.attempt >= _TOO_LATE)
        return rows

    def live(self, version: int) -> None:
        """`version` is live on every sampler."""
        if version < self.version:
            raise ValueError(f"version {version} after version {self.version}: versions only grow")
        self.version = version
        self._trained_before = {each: done for each, done in self._trained_before.items() if each >= version}
        self._allowed = self._most()
        self._wake()

    def trained(self, version: int, num_student: int, num_fixed: int) -> None:
        """The step before `version` learned from so many rows for the first time."""
        self._trained[Kind.STUDENT] += num_student
        self._trained[Kind.FIXED] += num_fixed
        self._trained_before[version] = dict(self._trained)

    def adopt(self, row: Row) -> None:
        """A row that a former start of the run issued, and that goes into the replay by itself; before any `next`."""
        self._adopted.add(row.index)
        self._issued[row.kind] += 1

    def issue_again(self, row: Row) -> None:
        """A row that was lost or became too old: it goes in next, in its former place."""
        heapq.heappush(self._again, Row(row.index, row.kind, row.attempt + 1))
        self._wake()

    def drop(self, row: Row) -> None:
        """A row that cannot be trained on: another one takes its place."""
        self.in_flight.discard(row)
        self._late.discard(row)
        self._issued[row.kind] -= 1
        self._wake()

    def arrived(self, rows: Sequence[Row]) -> None:
        """They are in the replay, or on their way in again."""
        self.in_flight.difference_update(rows)
        self._late.difference_update(rows)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _may_issue(self) -> bool:
        if self._again:
            return True
        # A row that came too late twice is so long that younger ones always overtake it: nobody overtakes it now.
        return not self._late and any(self._allowance(kind) > 0 for kind in Kind)

    def _allowance(self, kind: Kind) -> int:
        return self._allowed[kind] - self._issued[kind]

    def _most(self) -> dict[Kind, int]:
        steps = range(self.version, min(self.version + self._max_staleness + 1, self._max_steps))
        trained = self._trained_before[self.version]
        return {kind: trained[kind] + sum(self._demand(kind, step) for step in steps) for kind in Kind}

    def _demand(self, kind: Kind, step: int) -> int:
        if kind is Kind.STUDENT:
            return self._mixture.num_prompts(step)
        return self._batch_size - self._mixture.num_student(step)

    def _choose(self) -> list[Row]:
        if self._whole_steps:
            again = [heapq.heappop(self._again) for _ in range(len(self._again))]
            return again + [self._issue(kind) for kind in Kind for _ in range(self._allowance(kind))]
        if self._again:
            return [heapq.heappop(self._again)]
        return [self._issue(next(kind for kind in Kind if self._allowance(kind) > 0))]

    def _issue(self, kind: Kind) -> Row:
        self._issued[kind] += 1
        return Row(next(self._rows[kind]), kind)

    def _rows_of(self, kind: Kind) -> Iterator[int]:
        """Rows of one kind that nobody has taken, in stream order; spare ones behind the last step."""
        for step in range(self._first_open_step(), self._max_steps):
            first, end = self._mixture.first_position(step), self._mixture.first_position(step + 1)
            fixed_from = first + self._mixture.num_prompts(step)
            rows = range(first, fixed_from) if kind is Kind.STUDENT else range(fixed_from, end)
            yield from (index for index in rows if not self._taken(index))
        yield from (index for index in self._spares if not self._taken(index))

    def _taken(self, index: int) -> bool:
        return index in self._adopted or self._is_taken(index)

    def _first_open_step(self) -> int:
        """No step before it has a row left: all rows up to the first open one are taken."""
        index = 0
        while self._taken(index):
            index += 1
        steps = range(self._max_steps + 1)
        return max(0, bisect_right(steps, index, key=self._mixture.first_position) - 1)


def row_of(group: Group) -> Row:
    """The row of a group."""
    first = group[0].trajectory
    return Row(first.sample_id.prompt_index, Kind.of(group[0]), max(each.trajectory.attempt for each in group))
