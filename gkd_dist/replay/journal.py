"""Scored trajectories on disk until they are trained on, so that no work of samplers and teachers is lost (floor F2).

A folder of segments `segment-00000001.journal`, each a sequence of records:

    offset  bytes  field (integers little-endian, unsigned)
    0       8      magic 89 47 4B 44 4A 0D 0A 1A
    8       8      length of the frame, bytes
    16      8      xxh3-64 of bytes 0-15
    24             one wire frame with one ScoredTrajectory; its own checksum covers it

A record that is damaged is skipped: one with a damaged head as far as the next head, one whose frame is damaged by its
length. What ends a segment and is no whole record was cut off by a crash. A segment is written by one process, which is
the last to change it; later ones only delete it.

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
_SCAN_BYTES = 1 << 20
_SEGMENT = re.compile(r"segment-(\d{8,})\.journal\Z")


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    """Where the newest attempt of a sample is."""

    segment: int
    offset: int
    attempt: int


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
        self._on_disk: set[int] = set()
        """Segments that this object has flushed, and nobody writes any more."""
        self._places: dict[SampleId, _Place] = {}
        """What the last `survey` found."""
        self.lost: dict[str, Counter[str]] = {}
        """Records that the last reading could not use, by file and reason: `torn` for an end that was cut off, `head`
        for what has no whole head, else a wire reason."""

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
        """Returns once everything appended is on the disk, by this process and by those before it, which may have died
        before they flushed it."""
        if self._file is not None:
            self._file.sync()
        own = set() if self._file is None else {self._number}
        found = set(self._numbers()) - self._on_disk - own
        for number in found:
            flush(self._path(number))
        if found:
            flush(self.folder)
        self._on_disk |= found

    def read(self, finished: Container[SampleId] = frozenset()) -> Iterator[ScoredTrajectory]:
        """The newest whole attempt of every sample but the `finished` ones, segment by segment; `lost` tells what could
        not be used.

        What is given is read twice, and one trajectory at a time is held.
        """
        for _ in self.survey(finished):
            pass
        yield from self.surveyed()

    def survey(self, finished: Container[SampleId] = frozenset()) -> Iterator[None]:
        """The first half of `read`, one record at each turn: looks for the newest whole attempts."""
        self.lost = {}
        self._places = {}
        for number in self._numbers():
            ids: set[SampleId] = set()
            lost: Counter[str] = Counter()
            for offset, item in self._records(number, lost):
                trajectory = item.trajectory
                ids.add(trajectory.sample_id)
                known = self._places.get(trajectory.sample_id)
                if trajectory.sample_id not in finished and (known is None or trajectory.attempt >= known.attempt):
                    self._places[trajectory.sample_id] = _Place(number, offset, trajectory.attempt)
                yield
            self._ids[number] = ids
            if lost:
                self.lost[self._path(number).name] = lost

    def surveyed(self) -> Iterator[ScoredTrajectory]:
        """The second half: gives what was found."""
        for place in sorted(self._places.values()):
            try:
                file = self._path(place.segment).open("rb")
            except FileNotFoundError:  # deleted meanwhile
                continue
            with file:
                file.seek(place.offset)
                length = _frame_bytes(file.read(_HEAD_BYTES))
                if length is not None:
                    yield self._decode(file, length)

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
                self._delete(number)
                num_deleted += 1
        return num_deleted

    def keep_only(self, wanted: Collection[SampleId]) -> None:
        """As `rewrite`, in one go."""
        for _ in self.rewrite(wanted):
            pass

    def rewrite(self, wanted: Collection[SampleId]) -> Iterator[None]:
        """Throw everything away but the newest whole attempt of each `wanted` sample, one record at each turn; survives
        a power cut.

        What stays is written to new segments and flushed, then the older ones are deleted. A crash in between leaves
        both, so that the same call by the next process has the same result.

        Raises:
            OSError: it could not be written or deleted (the disk is full, say); nothing wanted is lost.
        """
        self.close()
        former = self._numbers()
        if not former:
            return
        if wanted:
            yield from self.survey()
            self._places = {sample_id: place for sample_id, place in self._places.items() if sample_id in wanted}
            for item in self.surveyed():
                self.append([item])
                yield
        self.close()
        fault_point("journal.before_delete")
        for number in former:
            self._delete(number)
        flush(self.folder)

    def close(self) -> None:
        """Flush to disk and let go of the segment; a later append begins a new one."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()
            if file.is_sound:
                self._on_disk.add(self._number)

    def _delete(self, number: int) -> None:
        self._path(number).unlink()
        self._ids.pop(number, None)
        self._on_disk.discard(number)

    def _segment(self) -> AppendFile:
        """The one to write to, with room."""
        if self._file is None or not self._file.is_sound or self._file.num_bytes >= self._max_segment_bytes:
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

    def _records(self, number: int, lost: Counter[str]) -> Iterator[tuple[int, ScoredTrajectory]]:
        """(offset, trajectory) of every whole record; counts the others in `lost`. A deleted segment has none."""
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
                    following = _next_head(file, offset + 1)
                    is_cut = length is not None or size - offset < _HEAD_BYTES  # a record began here
                    lost["torn" if following is None and is_cut else "head"] += 1
                    offset = size if following is None else following
                    continue
                try:
                    yield offset, self._decode(file, length)
                except WireError as error:
                    lost[error.reason] += 1
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


def _next_head(file: BinaryIO, offset: int) -> int | None:
    """Where the first whole head from `offset` on begins."""
    while True:
        file.seek(offset)
        chunk = file.read(_SCAN_BYTES)
        place = chunk.find(MAGIC)
        while place >= 0:
            if _frame_bytes(chunk[place : place + _HEAD_BYTES]) is not None:
                return offset + place
            place = chunk.find(MAGIC, place + 1)
        if len(chunk) < _SCAN_BYTES:
            return None
        offset += len(chunk) - _HEAD_BYTES + 1  # one may lie across the end


def _checked(head: bytes) -> bytes:
    return _CHECK.pack(xxhash.xxh3_64_intdigest(head))
