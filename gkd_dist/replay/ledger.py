"""What every train step was trained on: one line of JSON per step, the proof of exactly-once training (floor F2).

A run goes on from a checkpoint whose every sequence the ledger names. On resume at step N everything about steps from N
on is dropped, because it never happened to these weights; what is left names every sample that did.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from gkd_dist.disk import flush
from gkd_dist.errors import DataError
from gkd_dist.replay.append_file import AppendFile
from gkd_dist.replay.sample_ids import SampleIdSet
from gkd_dist.types import SampleId, Source, VersionRange


@dataclass(frozen=True, slots=True)
class TrainedSequence:
    """One sequence of a train step."""

    sample_id: SampleId
    attempt: int
    """Of the sample: how often its prompt had been issued before."""
    source: Source
    versions: VersionRange | None
    """Policy versions that wrote it; None for a fixed pair."""
    teachers: tuple[str, ...]
    use: int
    """1 where it was trained on for the first time, 2 for the second, ..."""
    staleness: int
    """Train steps."""


@dataclass(frozen=True, slots=True)
class StepEntry:
    """One train step."""

    step: int
    """The policy version before it."""
    attempt: int
    """Of the run, from 0 on: how often it had been resumed before. One less than `attempt` of metrics, events and
    attempts, which count starts; it stays so for the ledgers that are there."""
    student_fraction: float
    """Lambda of this step."""
    num_student: int
    """Sequences of the student that the coin or the quota asked for."""
    sequences: tuple[TrainedSequence, ...]
    kind: Literal["step"] = "step"


@dataclass(frozen=True, slots=True)
class DroppedPrompt:
    """A prompt that was given up; no step will train on it."""

    step: int
    """The policy version at that moment."""
    sample_id: SampleId
    reason: str
    kind: Literal["dropped"] = "dropped"


LedgerEntry = StepEntry | DroppedPrompt


class Ledger:
    """The file; many may read it while one process appends.

    A last line that was cut off by a crash counts as not written: readers skip it, the next append removes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: AppendFile | None = None
        self._adapter: TypeAdapter[LedgerEntry] = TypeAdapter(
            Annotated[StepEntry | DroppedPrompt, Field(discriminator="kind")]
        )

    def append(self, entry: LedgerEntry) -> None:
        """Add one line; it outlives this process, and after `sync` a power cut.

        Raises:
            OSError: it could not be written; the file is as before.
        """
        if self._file is None:
            self._file = AppendFile(self.path, from_byte=_whole_bytes(self.path))
        self._file.append(self._line(entry))

    def sync(self) -> None:
        """Returns once all lines would survive a power cut: before a checkpoint that relies on them is finished."""
        if self._file is not None:
            self._file.sync()

    def fault(self, step: int, *, run: str, trained: SampleIdSet) -> str | None:
        """Why a checkpoint cannot rely on this ledger; None where it names exactly what the checkpoint holds.

        Args:
            step: of the checkpoint: all steps before it must be here, once and in order.
            run: name under which the run began.
            trained: what these steps were trained on.
        """
        ids, num_steps, damaged = SampleIdSet(), 0, None
        for number, line in self._lines():
            entry = self._parse(line)
            if entry is None:
                damaged = damaged or number
            elif isinstance(entry, StepEntry) and entry.step < step:
                if damaged is not None:
                    return f"line {damaged} of the ledger is damaged"
                if entry.step != num_steps:
                    return f"the ledger has step {entry.step} where step {num_steps} belongs"
                if num_steps == 0 and entry.sequences[0].sample_id.run != run:
                    return f"the ledger is that of run {entry.sequences[0].sample_id.run!r}, not of {run!r}"
                ids.update(sequence.sample_id for sequence in entry.sequences)
                num_steps += 1
        if num_steps < step:
            return f"the ledger ends after {num_steps} steps"
        if ids.ranges() != trained.ranges():
            others = " others" if len(ids) == len(trained) else ""
            return f"the ledger names {len(ids)} sequences for its steps, the checkpoint {len(trained)}{others}"
        return None

    def truncate(self, step: int, *, run: str = "", dropped: SampleIdSet | None = None) -> int:
        """Drop the entries of steps >= `step`, and what is damaged; returns how many.

        The new file replaces the former one whole, and survives a power cut.

        Args:
            run: name under which the run began.
            dropped: prompts that are known to be given up; their entries stay whatever their step, and come back where
                they were lost.

        Raises:
            DataError: a line before the last step that stays is damaged; the file is as before.
        """
        self.close()
        dropped, named = dropped or SampleIdSet(), SampleIdSet()
        if not self.path.exists() and not len(dropped):
            return 0
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        num_dropped, damaged = 0, None
        try:
            with draft.open("wb") as file:
                for number, line in self._lines():
                    entry = self._parse(line)
                    if entry is None or not _stays(entry, step, dropped):
                        num_dropped += 1
                        damaged = number if entry is None else damaged
                        continue
                    if isinstance(entry, DroppedPrompt):
                        named.add(entry.sample_id)
                    elif damaged is not None:
                        raise self._damage(damaged)
                    file.write(line)
                for sample_id in dropped.ids(run):
                    if sample_id not in named:
                        file.write(self._line(DroppedPrompt(step, sample_id, "rejected")))
                file.flush()
                os.fsync(file.fileno())
            draft.rename(self.path)
        finally:
            draft.unlink(missing_ok=True)
        flush(self.path.parent)
        return num_dropped

    def entries(self) -> Iterator[LedgerEntry]:
        """In the order in which they were appended.

        Raises:
            DataError: a line that is not the last one is damaged.
        """
        damaged = None
        for number, line in self._lines():
            if damaged is not None:
                raise self._damage(damaged)
            entry = self._parse(line)
            if entry is None:
                damaged = number
            else:
                yield entry

    def numbered(self) -> Iterator[tuple[int, LedgerEntry | None]]:
        """(line from 1 on, what it holds): also where others are damaged, which hold None. For people who look: what a
        run goes on with asks for the whole."""
        for number, line in self._lines():
            if line.endswith(b"\n"):  # else it was cut off by a crash, and counts as not written
                yield number, self._parse(line)

    def entry(self, step: int) -> StepEntry | None:
        """What `step` was trained on; None where the ledger does not know of it."""
        steps = (each for each in self.entries() if isinstance(each, StepEntry))
        return next((each for each in steps if each.step == step), None)

    def dropped(self) -> list[DroppedPrompt]:
        """The prompts that were given up."""
        return [each for each in self.entries() if isinstance(each, DroppedPrompt)]

    def trained(self) -> SampleIdSet:
        """The ids of all sequences that were trained on."""
        return _trained(entry for entry in self.entries() if isinstance(entry, StepEntry))

    def close(self) -> None:
        """Flush to disk and let go of the file; a later append opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """(number from 1 on, line with its end)."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            yield from enumerate(file, start=1)

    def _line(self, entry: LedgerEntry) -> bytes:
        return self._adapter.dump_json(entry) + b"\n"

    def _parse(self, line: bytes) -> LedgerEntry | None:
        """None where the line is not what `append` writes."""
        if not line.endswith(b"\n"):
            return None
        try:
            return self._adapter.validate_json(line)
        except ValidationError:
            return None

    def _damage(self, number: int) -> DataError:
        return DataError(
            f"{self.path}: line {number} is damaged, so what the run has trained on is not known; put back an intact "
            "copy of the file, or set checkpoint.resume=false to train from the beginning in a new run"
        )


def _stays(entry: LedgerEntry, step: int, dropped: SampleIdSet) -> bool:
    return entry.step < step or (isinstance(entry, DroppedPrompt) and entry.sample_id in dropped)


def _trained(steps: Iterable[StepEntry]) -> SampleIdSet:
    ids = SampleIdSet()
    for entry in steps:
        ids.update(sequence.sample_id for sequence in entry.sequences)
    return ids


def _whole_bytes(path: Path) -> int:
    """Length up to and with the last line end."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - (1 << 16))
            file.seek(start)
            found = file.read(position - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            position = start
    return 0
