"""Scored trajectories on disk until they are trained on, so that no work of samplers and teachers is lost (floor F2).

A folder of segments `segment-00000001.journal`, each a sequence of records:

    offset  bytes  field (integers little-endian, unsigned)
    0       8      magic 89 47 4B 44 4A 0D 0A 1A
    8       8      length of the frame, bytes
    16      8      xxh3-64 of bytes 0-15
    24             one wire frame with one ScoredTrajectory; its own checksum covers it

A record whose head is damaged ends its segment, because nothing tells where the next one begins; one whose frame is
damaged is skipped. A segment is written by one process, which is the last to change it; later ones only delete it.

A record does not say which weights wrote it, only their version number. When a run goes back to an older checkpoint, a
second version of the same number will come; so what is not wanted then has to leave the files (`keep_only`).
"""

import os
import re
import struct
from collections import Counter
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import xxhash

from gkd_dist.disk import flush
from gkd_dist.errors import WireError
from gkd_dist.fault_points import fault_point
from gkd_dist.replay.append_file import AppendFile
from gkd_dist.types import SampleId, ScoredTrajectory
from gkd_dist.wire.codec import decode, encode

MAGIC = b"\x89GKDJ\r\n\x1a"
_HEAD = struct.Struct("<8sQ")
_CHECK = struct.Struct("<Q")
_HEAD_BYTES = _HEAD.size + _CHECK.size
_SEGMENT = re.compile(r"segment-(\d{8,})\.journal\Z")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the newest attempt of a sample is."""

    attempt: int
    segment: int
    offset: int


class Journal:
    """Plain synchronous files; one process at a time, and calls must not overlap.

    journal = Journal(run / "journal")
    waiting = [item for item in journal.read(ledger.trained()) if usable(item)]    # of former processes
    journal.keep_only({item.trajectory.sample_id for item in waiting})
    journal.append(scored)
    journal.forget(ledger.trained())

    Args:
        folder: made when it is first written to.
        max_segment_bytes: a segment that has reached this length is followed by a new one.
        max_record_bytes: longer frames are neither written nor read.
    """

    def __init__(
        self, folder: Path, *, max_segment_bytes: int = 64 * 1024 * 1024, max_record_bytes: int = 1 << 30
    ) -> None:
        self.folder = folder
        self._max_segment_bytes = max_segment_bytes
        self._max_record_bytes = max_record_bytes
        self._ids: dict[int, set[SampleId]] = {}
        """Of the segments that were read or written, by number."""
        self._file: AppendFile | None = None
        self._number = 0
        """Of the segment that is written, or was last."""
        self.dropped: Counter[str] = Counter()
        """Records that the last `read` could not use, by reason: `torn` for the rest of a segment, else a wire
        reason."""

    def append(self, scored: Sequence[ScoredTrajectory]) -> None:
        """Add trajectories with their targets; they outlive this process, and after `sync` a power cut.

        Raises:
            WireError: one cannot be written (targets that are handles, or `oversize`); those before it are.
            OSError: one could not be written (the disk is full, say); those before it are.
        """
        for item in scored:
            frame = encode([item])
            if frame.size > self._max_record_bytes:
                raise WireError("oversize", f"{frame.size} bytes, at most {self._max_record_bytes} are allowed")
            head = _HEAD.pack(MAGIC, frame.size)
            self._segment().append(head + _checked(head), frame.data)
            self._ids[self._number].add(item.trajectory.sample_id)

    def sync(self) -> None:
        """Returns once everything appended is on the disk."""
        if self._file is not None:
            self._file.sync()

    def read(self, finished: Container[SampleId] = frozenset()) -> Iterator[ScoredTrajectory]:
        """The newest whole attempt of every sample but the `finished` ones, segment by segment; `dropped` tells what
        could not be used.

        Every file is read twice, and one trajectory at a time is held.
        """
        self.dropped = Counter()
        places: dict[SampleId, _Place] = {}
        numbers = self._numbers()
        for number in numbers:
            ids: set[SampleId] = set()
            for offset, item in self._records(number, self.dropped):
                trajectory = item.trajectory
                ids.add(trajectory.sample_id)
                if trajectory.sample_id in finished:
                    continue
                known = places.get(trajectory.sample_id)
                if known is None or trajectory.attempt >= known.attempt:
                    places[trajectory.sample_id] = _Place(trajectory.attempt, number, offset)
            self._ids[number] = ids
        for number in numbers:
            for offset, item in self._records(number, Counter()):
                place = places.get(item.trajectory.sample_id)
                if place == _Place(item.trajectory.attempt, number, offset):
                    yield item

    def forget(self, finished: Container[SampleId]) -> int:
        """Delete the segments that hold nothing but `finished` samples; returns how many.

        Args:
            finished: ids that a checkpoint holds as trained, and those that were given up.
        """
        num_deleted = 0
        for number in self._numbers():
            if number not in self._ids:
                self._ids[number] = {item.trajectory.sample_id for _, item in self._records(number, Counter())}
            if all(sample_id in finished for sample_id in self._ids[number]):
                if number == self._number:
                    self.close()
                self._path(number).unlink()
                del self._ids[number]
                num_deleted += 1
        return num_deleted

    def keep_only(self, wanted: Collection[SampleId]) -> None:
        """Throw everything away but the newest whole attempt of each `wanted` sample; survives a power cut.

        What stays is written to new segments and flushed, then the older ones are deleted. A crash in between leaves
        both, so that the same call by the next process has the same result.

        Raises:
            OSError: it could not be written or deleted (the disk is full, say); nothing wanted is lost.
        """
        self.close()
        former = self._numbers()
        if not former:
            return
        for item in self.read() if wanted else ():
            if item.trajectory.sample_id in wanted:
                self.append([item])
        self.close()
        fault_point("journal.before_delete")
        for number in former:
            self._path(number).unlink()
            self._ids.pop(number, None)
        flush(self.folder)

    def close(self) -> None:
        """Flush to disk and let go of the segment; a later append begins a new one."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _segment(self) -> AppendFile:
        """The one to write to, with room."""
        if self._file is None or self._file.num_bytes >= self._max_segment_bytes:
            self.close()
            self._number = max([self._number, *self._numbers()]) + 1
            self._file = AppendFile(self._path(self._number))
            self._ids[self._number] = set()
        return self._file

    def _path(self, number: int) -> Path:
        return self.folder / f"segment-{number:08d}.journal"

    def _numbers(self) -> list[int]:
        """Of the segments on disk, in the order in which they were written."""
        if not self.folder.is_dir():
            return []
        return sorted(int(match[1]) for path in self.folder.iterdir() if (match := _SEGMENT.match(path.name)))

    def _records(self, number: int, dropped: Counter[str]) -> Iterator[tuple[int, ScoredTrajectory]]:
        """(offset, trajectory) of every whole record; counts the others in `dropped`. A deleted segment has none."""
        try:
            file = self._path(number).open("rb")
        except FileNotFoundError:
            return
        with file:
            size, offset = os.fstat(file.fileno()).st_size, 0
            while offset < size:
                file.seek(offset)
                length = _frame_bytes(file.read(_HEAD_BYTES))
                if length is None or length > size - offset - _HEAD_BYTES:
                    dropped["torn"] += 1
                    return
                try:
                    yield offset, self._decode(file, length)
                except WireError as error:
                    dropped[error.reason] += 1
                offset += _HEAD_BYTES + length

    def _decode(self, file: BinaryIO, length: int) -> ScoredTrajectory:
        if length > self._max_record_bytes:
            raise WireError("oversize", f"{length} bytes, at most {self._max_record_bytes} are allowed")
        found = decode(file.read(length), ScoredTrajectory, max_bytes=self._max_record_bytes)
        if len(found) != 1:
            raise WireError("record", f"{len(found)} trajectories in one record of the journal")
        return found[0]


def _frame_bytes(head: bytes) -> int | None:
    """Length of the frame behind `head`; None where it is not the head of a record."""
    if len(head) != _HEAD_BYTES or head[_HEAD.size :] != _checked(head[: _HEAD.size]):
        return None
    magic, length = _HEAD.unpack_from(head)
    return int(length) if magic == MAGIC else None


def _checked(head: bytes) -> bytes:
    return _CHECK.pack(xxhash.xxh3_64_intdigest(head))
