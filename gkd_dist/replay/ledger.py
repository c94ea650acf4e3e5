"""What every train step was trained on: one line of JSON per step, the proof of exactly-once training (floor F2).

The learner's checkpoint decides what has happened. On resume at step N everything about steps from N on is dropped from
the ledger, because it never happened to these weights; what is left names every sample that did.
"""

import os
from collections.abc import Container, Iterable, Iterator, Sequence
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
    """Of the run: how often it had been resumed before."""
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
        self._file.append(self._adapter.dump_json(entry) + b"\n")

    def sync(self) -> None:
        """Returns once all lines would survive a power cut: before a checkpoint that relies on them is finished."""
        if self._file is not None:
            self._file.sync()

    def truncate(
        self,
        step: int,
        *,
        run: str | None = None,
        trained: SampleIdSet | None = None,
        dropped: Container[SampleId] = frozenset(),
    ) -> int:
        """Drop the entries of steps >= `step`, and torn lines behind the last one that stays; returns how many.

        The new file replaces the former one whole, and survives a power cut.

        Args:
            run: name under which the run began, where that is known.
            trained: what the steps before `step` were trained on, where that is known.
            dropped: prompts that are known to be given up; their entries stay whatever their step.

        Raises:
            DataError: a line before the last entry that stays is damaged, or what stays does not name `run` and
                `trained`; the file is as before.
        """
        self.close()
        if not self.path.exists():
            self._check((), step, run, trained)
            return 0
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        num_dropped, damaged = 0, None
        steps: list[StepEntry] = []
        try:
            with draft.open("wb") as file:
                for number, line in self._lines():
                    entry = self._parse(line)
                    if entry is not None and _stays(entry, step, dropped):
                        if damaged is not None:
                            raise self._damage(damaged)
                        file.write(line)
                        if isinstance(entry, StepEntry):
                            steps.append(entry)
                        continue
                    num_dropped += 1
                    damaged = number if entry is None else damaged
                file.flush()
                os.fsync(file.fileno())
            self._check(steps, step, run, trained)
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

    def _parse(self, line: bytes) -> LedgerEntry | None:
        """None where the line is not what `append` writes."""
        if not line.endswith(b"\n"):
            return None
        try:
            return self._adapter.validate_json(line)
        except ValidationError:
            return None

    def _check(self, steps: Sequence[StepEntry], step: int, run: str | None, trained: SampleIdSet | None) -> None:
        if trained is None:
            return
        found = _trained(steps)
        problem = None
        if found.ranges() != trained.ranges():
            problem = f"names {len(found)} sequences for the steps before {step}, the checkpoint {len(trained)}"
            problem += " others" if len(found) == len(trained) else ""
        elif steps and run is not None and steps[0].sequences[0].sample_id.run != run:
            problem = f"is that of run {steps[0].sequences[0].sample_id.run!r}, the checkpoint that of {run!r}"
        if problem:
            raise DataError(
                f"{self.path} {problem}: it was lost, cut or exchanged; put back the ledger.jsonl of this run, or set "
                "checkpoint.resume=false to train from the beginning in a new run"
            )

    def _damage(self, number: int) -> DataError:
        return DataError(
            f"{self.path}: line {number} is damaged, so what the run has trained on is not known; put back an intact "
            "copy of the file, or set checkpoint.resume=false to train from the beginning in a new run"
        )


def _stays(entry: LedgerEntry, step: int, dropped: Container[SampleId]) -> bool:
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
