"""What every train step was trained on: one line of JSON per step, the proof of exactly-once training (floor F2).

A run goes on from a checkpoint whose every sequence the ledger names. On resume at step N everything about steps from N
on is dropped, because it never happened to these weights; what is left names every sample that did.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

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

_NOBODY = SampleIdSet()


_State = tuple[int, int, int] | None
"""Of a file: what changes with its content. None where there is no file."""


@dataclass(frozen=True, slots=True)
class _Line:
    """What a run that is to go on asks of one line."""

    place: range
    """Its bytes in the file."""
    step: int | None
    """None where it is damaged; as in its entry elsewhere."""
    run: str
    trained: SampleIdSet
    dropped: SampleId | None
    """None but for a `DroppedPrompt`."""

    @classmethod
    def of(cls, entry: LedgerEntry | None, place: range) -> "_Line":
        match entry:
            case StepEntry():
                run = entry.sequences[0].sample_id.run if entry.sequences else ""
                return cls(place, entry.step, run, _trained([entry]), None)
            case DroppedPrompt():
                return cls(place, entry.step, entry.sample_id.run, _NOBODY, entry.sample_id)
        return cls(place, None, "", _NOBODY, None)


class Ledger:
    """The file; many may read it while one process appends.

    A last line that was cut off by a crash counts as not written: readers skip it, the next append removes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: AppendFile | None = None
        self._survey: tuple[_State, list[_Line]] | None = None
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
        self._survey = None
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
        for number, line in enumerate(self._surveyed(), start=1):
            if line.step is None:
                damaged = damaged or number
            elif line.dropped is None and line.step < step:
                if damaged is not None:
                    return f"line {damaged} of the ledger is damaged"
                if line.step != num_steps:
                    return f"the ledger has step {line.step} where step {num_steps} belongs"
                if num_steps == 0 and line.run != run:
                    return f"the ledger is that of run {line.run!r}, not of {run!r}"
                ids.update(line.trained.ids(run))
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
        num_dropped, damaged, stay = 0, None, []
        for number, line in enumerate(self._surveyed(), start=1):
            if line.step is None or not (line.step < step or (line.dropped is not None and line.dropped in dropped)):
                num_dropped += 1
                damaged = number if line.step is None else damaged
                continue
            if line.dropped is not None:
                named.add(line.dropped)
            elif damaged is not None:
                raise self._damage(damaged)
            stay.append(line.place)
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            with draft.open("wb") as file:
                self._copy(stay, file)
                for sample_id in dropped.ids(run):
                    if sample_id not in named:
                        file.write(self._line(DroppedPrompt(step, sample_id, "rejected")))
                file.flush()
                os.fsync(file.fileno())
            draft.rename(self.path)
            self._survey = None
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

    def _surveyed(self) -> list[_Line]:
        """What all lines say, in short. The file is parsed once for each state that it has: what is asked of a run that
        is about to go on, for each of its checkpoints and then to cut it, is asked of the same state."""
        state = _state(self.path)
        if self._survey is None or self._survey[0] != state:
            lines, place = [], 0
            for _, line in self._lines():
                lines.append(_Line.of(self._parse(line), range(place, place + len(line))))
                place += len(line)
            self._survey = state, lines
        return self._survey[1]

    def _copy(self, places: Iterable[range], file: BinaryIO) -> None:
        """The bytes at `places`, as they are."""
        if not self.path.exists():
            return
        with self.path.open("rb") as source:
            for place in places:
                source.seek(place.start)
                file.write(source.read(len(place)))

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


def _state(path: Path) -> _State:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


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
