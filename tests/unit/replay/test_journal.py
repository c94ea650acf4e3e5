"""The journal: nothing whole is lost, nothing damaged comes back, whatever happened to the files."""

import errno
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.errors import WireError
from gkd_dist.replay.journal import Journal
from gkd_dist.replay.sample_ids import SampleIdSet
from gkd_dist.targets import TargetsHandle, TopKTargets
from gkd_dist.types import (
    FinishReason,
    SampleId,
    ScoredTrajectory,
    Source,
    TeacherScore,
    Trajectory,
    VersionRange,
)
from gkd_dist.wire.codec import encode

REPOSITORY = Path(__file__).parents[3]
HEAD_BYTES = 24


def scored(index: int, attempt: int = 0, *, num_tokens: int = 3) -> ScoredTrajectory:
    """Its arrays tell index and attempt."""
    trajectory = Trajectory(
        SampleId("run-1", index, index % 2),
        np.array([index, 5], np.int32),
        np.full(num_tokens, attempt, np.int32),
        Source.STUDENT,
        FinishReason.LENGTH,
        attempt,
        np.full(num_tokens, -0.5, np.float32),
        VersionRange(index, index + attempt),
    )
    ids = np.tile(np.array([[3, index]], np.int32), (num_tokens, 1))
    targets = TopKTargets(ids, np.log(np.full((num_tokens, 2), 0.25, np.float32)))
    return ScoredTrajectory(trajectory, (TeacherScore("large", targets),), 0.5)


def encoded(items: Sequence[ScoredTrajectory]) -> list[bytes]:
    return [encode([item]).tobytes() for item in items]


def read(journal: Journal) -> list[tuple[int, int]]:
    """(prompt index, attempt) of what comes back, after a check that it is what `scored` makes."""
    found = list(journal.read())
    keys = [(item.trajectory.sample_id.prompt_index, item.trajectory.attempt) for item in found]
    assert encoded(found) == encoded([scored(*key) for key in keys])
    return keys


def lost(journal: Journal) -> Counter[str]:
    """Records that could not be read, over all files."""
    return sum(journal.lost.values(), Counter())


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def record(frame: bytes, length: int | None = None) -> bytes:
    """A record with a sealed head, written from the layout and not from the code."""
    head = struct.pack("<8sQ", b"\x89GKDJ\r\n\x1a", len(frame) if length is None else length)
    return head + struct.pack("<Q", xxhash.xxh3_64_intdigest(head)) + frame


@cache
def four_records() -> bytes:
    """A segment."""
    return b"".join(map(record, encoded([scored(index) for index in range(4)])))


@contextmanager
def temporary() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def test_nothing_was_ever_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert list(journal.read()) == []
    assert journal.forget(SampleIdSet()) == 0
    journal.sync()
    journal.close()
    assert not journal.folder.exists()


def test_what_was_appended_is_read_back_in_order_by_the_next_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([scored(4), scored(2)])
    journal.append([scored(7, 3)])
    again = Journal(tmp_path)
    assert read(again) == [(4, 0), (2, 0), (7, 3)]
    assert not again.lost
    journal.sync()
    assert read(journal) == [(4, 0), (2, 0), (7, 3)]


def test_every_process_begins_a_segment_and_a_full_one_is_followed_by_another(tmp_path: Path) -> None:
    size = encode([scored(0)]).size + HEAD_BYTES
    first = Journal(tmp_path, max_segment_bytes=2 * size)
    first.append([scored(index) for index in range(5)])
    assert [path.stat().st_size for path in files(tmp_path)] == [2 * size, 2 * size, size]
    second = Journal(tmp_path)
    second.append([scored(5)])
    assert len(files(tmp_path)) == 4
    assert read(second) == [(index, 0) for index in range(6)]


@pytest.mark.fault(22)
def test_the_newest_attempt_of_a_sample_wins_wherever_it_is(tmp_path: Path) -> None:
    first = Journal(tmp_path, max_segment_bytes=1)
    first.append([scored(1, 2), scored(2), scored(1), scored(3)])
    second = Journal(tmp_path)
    second.append([scored(3, 1), scored(2), scored(1, 1)])
    assert read(Journal(tmp_path)) == [(1, 2), (3, 1), (2, 0)]


def test_segments_go_when_all_their_samples_are_trained(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.append([scored(0), scored(1)])
    first.close()
    second = Journal(tmp_path)
    second.append([scored(2), scored(3)])
    trained = SampleIdSet()
    trained.update([scored(0).trajectory.sample_id, scored(2).trajectory.sample_id])
    assert second.forget(trained) == 0
    trained.add(scored(1).trajectory.sample_id)
    assert second.forget(trained) == 1, "the first segment was written by another process"
    assert read(second) == [(2, 0), (3, 0)]
    trained.add(scored(3).trajectory.sample_id)
    assert second.forget(trained) == 1, "also the one that is being written"
    assert files(tmp_path) == []
    second.append([scored(4)])
    assert read(Journal(tmp_path)) == [(4, 0)]


def test_forgetting_while_reading_ends_the_reading_of_that_segment(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_segment_bytes=1)
    journal.append([scored(0), scored(1)])
    reading = journal.read()
    next(reading)
    trained = SampleIdSet()
    trained.add(scored(1).trajectory.sample_id)
    assert journal.forget(trained) == 1
    assert list(reading) == []


def test_handles_and_records_that_are_too_long_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    handle = replace(scored(0), scores=(TeacherScore("large", TargetsHandle(None, 0, 3, 10)),))
    journal = Journal(tmp_path, max_record_bytes=4000)
    with pytest.raises(WireError, match="TargetsHandle"):
        journal.append([handle])
    with pytest.raises(WireError, match="oversize"):
        journal.append([scored(0), scored(1, num_tokens=1000)])
    assert read(Journal(tmp_path)) == [(0, 0)]


# Rows 22 and 29: what a killed process, a bad disk or somebody hostile leaves.

APPEND_AND_DIE = """
import sys
from pathlib import Path
from gkd_dist.replay.journal import Journal
from tests.unit.replay.test_journal import scored
Journal(Path(sys.argv[1])).append([scored(0), scored(1)])
"""


@pytest.mark.fault(22)
def test_a_writer_killed_within_a_record_loses_that_record_alone(tmp_path: Path) -> None:
    """Killed after the head of the second record; the witness is the file that the fault point leaves."""
    witness, folder = tmp_path / "witness", tmp_path / "journal"
    witness.mkdir()
    fault = {"GKD_FAULTS": "append_file.in_record:kill@3", "GKD_FAULTS_WITNESS": str(witness)}
    done = subprocess.run(
        [sys.executable, "-c", APPEND_AND_DIE, str(folder)],
        env={**os.environ, **fault, "PYTHONPATH": str(REPOSITORY)},
        timeout=60,
        check=False,
    )
    assert done.returncode == -9
    assert len(files(witness)) == 1
    journal = Journal(folder)
    assert read(journal) == [(0, 0)]
    assert lost(journal) == {"torn": 1}
    journal.append([scored(1)])
    assert read(Journal(folder)) == [(0, 0), (1, 0)]


@pytest.mark.fault(22)
@given(cut=st.integers(0, 20_000))
def test_cut_at_any_byte_a_segment_gives_its_whole_records(cut: int) -> None:
    with temporary() as folder:
        size = len(four_records())
        cut %= size + 1
        (folder / "segment-00000001.journal").write_bytes(four_records()[:cut])
        journal = Journal(folder)
        num_whole, rest = divmod(cut, size // 4)
        assert read(journal) == [(index, 0) for index in range(num_whole)]
        assert lost(journal) == ({"torn": 1} if rest else {})
        journal.append([scored(9)])
        assert read(Journal(folder)) == [*((index, 0) for index in range(num_whole)), (9, 0)]


@pytest.mark.fault(29)
@settings(max_examples=300)
@given(place=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_flipped_byte_costs_its_record_alone(place: int, flip: int) -> None:
    with temporary() as folder:
        path = folder / "segment-00000001.journal"
        data = bytearray(four_records())
        each = len(data) // 4
        hit, offset = divmod(place % len(data), each)
        data[place % len(data)] ^= flip
        path.write_bytes(data)
        journal = Journal(folder)
        assert read(journal) == [(index, 0) for index in range(4) if index != hit]
        assert sum(lost(journal).values()) == 1
        assert (offset < HEAD_BYTES) == (lost(journal).keys() <= {"head", "torn"})
        assert journal.lost.keys() == {path.name}


@pytest.mark.fault(29)
@settings(max_examples=200)
@given(garbage=st.binary(max_size=300), sealed=st.booleans())
def test_garbage_is_never_an_error_and_never_a_record(garbage: bytes, sealed: bool) -> None:
    with temporary() as folder:
        good = record(encoded([scored(1)])[0])
        (folder / "segment-00000001.journal").write_bytes(good + (record(garbage) if sealed else garbage) + good[:30])
        assert read(Journal(folder)) == [(1, 0)]


@pytest.mark.fault(29)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (record(encode([scored(1), scored(2)]).tobytes()), "record"),
        (record(encode([scored(1).trajectory]).tobytes()), "kind"),
        (record(b""), "truncated"),
        (record(encoded([scored(1)])[0] + b"\x00"), "trailing"),
        (record(b"\x80\x04cposix\nsystem\n(S'true'\ntR." + bytes(100)), "magic"),
    ],
)
def test_a_sealed_record_with_something_else_inside_is_skipped(tmp_path: Path, content: bytes, reason: str) -> None:
    good = record(encoded([scored(7)])[0])
    (tmp_path / "segment-00000001.journal").write_bytes(content + good)
    journal = Journal(tmp_path)
    assert read(journal) == [(7, 0)]
    assert lost(journal) == {reason: 1}


@pytest.mark.fault(30)
def test_an_oversized_record_is_not_read_into_memory(tmp_path: Path) -> None:
    """32 MB of zeros behind an honest head, once in the file and once only claimed."""
    size = 32_000_000
    path = tmp_path / "segment-00000001.journal"
    good = record(encoded([scored(7)])[0])
    path.write_bytes(record(b"", size))
    os.truncate(path, HEAD_BYTES + size)
    with path.open("ab") as file:
        file.write(good + record(b"", 1 << 62))
    journal = Journal(tmp_path, max_record_bytes=1_000_000)
    tracemalloc.start()
    try:
        assert read(journal) == [(7, 0)]
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert lost(journal) == {"oversize": 1, "torn": 1}


@pytest.mark.fault(29)
@pytest.mark.parametrize("gap", [0, 1, (1 << 20) - 30, (1 << 20) + 7])
def test_behind_a_damaged_head_the_next_whole_one_is_found(tmp_path: Path, gap: int) -> None:
    """However far it is, and whatever looks like one before it."""
    one, two = (record(frame) for frame in encoded([scored(1), scored(2)]))
    decoy = b"\x89GKDJ\r\n\x1a" + bytes(30)
    (tmp_path / "segment-00000001.journal").write_bytes(one + b"?" + one[1:] + decoy + bytes(gap) + two)
    journal = Journal(tmp_path)
    assert read(journal) == [(1, 0), (2, 0)]
    assert lost(journal) == {"head": 1}


def test_a_reading_tells_that_it_goes_on_with_every_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_segment_bytes=1)
    journal.append([scored(index, attempt) for index in range(3) for attempt in range(2)])
    assert len(list(journal.survey())) == 6
    assert len(list(journal.surveyed())) == 3
    assert len(list(journal.rewrite({scored(2).trajectory.sample_id}))) == 6 + 1
    assert read(Journal(tmp_path)) == [(2, 1)]


def test_the_first_flush_of_a_process_takes_what_others_wrote_before_they_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = Journal(tmp_path / "journal", max_segment_bytes=1)
    former.append([scored(0), scored(1)])
    os.close(former._file._descriptor)  # killed: the last segment was never flushed
    flushed: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (flushed.append(Path(os.readlink(f"/proc/self/fd/{file}")).name), fsync(file))
    )
    journal = Journal(tmp_path / "journal")
    journal.append([scored(2)])
    flushed.clear()
    journal.sync()
    assert sorted(flushed) == ["journal", *(f"segment-0000000{number}.journal" for number in (1, 2, 3))]
    flushed.clear()
    journal.sync()
    assert flushed == ["segment-00000003.journal"], "the one that is written"


@pytest.mark.fault(31)
def test_a_full_disk_costs_what_could_not_be_written_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.append([scored(0)])
    write, calls = os.write, []

    def head_only(file: int, data: memoryview) -> int:
        calls.append(data.nbytes)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "full")
        return write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", head_only)
        with pytest.raises(OSError, match="full"):
            journal.append([scored(1)])
    assert len(calls) == 2
    journal.append([scored(2)])
    assert read(Journal(tmp_path)) == [(0, 0), (2, 0)]


def test_reading_holds_one_trajectory_at_a_time(tmp_path: Path) -> None:
    """40 records of 0.4 MB each in one segment; ids and places are all that stays."""
    journal = Journal(tmp_path)
    for index in range(40):
        journal.append([scored(index, num_tokens=16_000)])
    del journal
    tracemalloc.start()
    try:
        assert sum(1 for _ in Journal(tmp_path).read()) == 40
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


# A run that goes back.


@pytest.mark.fault(22)
def test_only_what_is_wanted_stays_and_a_newer_low_attempt_is_no_longer_hidden(tmp_path: Path) -> None:
    first = Journal(tmp_path, max_segment_bytes=1)
    first.append([scored(1, 2), scored(2), scored(3, 1), scored(3)])
    second = Journal(tmp_path)
    second.keep_only({scored(2).trajectory.sample_id, scored(3).trajectory.sample_id})
    assert read(second) == [(2, 0), (3, 1)]
    second.append([scored(1)])
    assert read(Journal(tmp_path)) == [(2, 0), (3, 1), (1, 0)]
    second.keep_only(())
    assert files(tmp_path) == []
    second.append([scored(4)])
    assert read(Journal(tmp_path)) == [(4, 0)]


KEEP_AND_DIE = """
import sys
from pathlib import Path
from gkd_dist.replay.journal import Journal
from tests.unit.replay.test_journal import scored
Journal(Path(sys.argv[1])).keep_only({scored(0).trajectory.sample_id, scored(1).trajectory.sample_id})
"""


@pytest.mark.fault(22)
@pytest.mark.parametrize("point", ["append_file.in_record:kill@2", "journal.before_delete:kill"])
def test_a_rewrite_that_was_killed_is_done_by_the_next_process(tmp_path: Path, point: str) -> None:
    Journal(tmp_path).append([scored(0), scored(1), scored(2)])
    (before,) = files(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "GKD_FAULTS": point}
    ended = subprocess.run([sys.executable, "-c", KEEP_AND_DIE, str(tmp_path)], env=environment, timeout=60)
    assert ended.returncode == -9
    assert before in files(tmp_path) and len(files(tmp_path)) == 2, "witness: a new segment was begun"
    again = Journal(tmp_path)
    again.keep_only({scored(0).trajectory.sample_id, scored(1).trajectory.sample_id})
    assert sorted(read(Journal(tmp_path))) == [(0, 0), (1, 0)]
    assert before not in files(tmp_path)


@pytest.mark.fault(31)
def test_a_rewrite_on_a_full_disk_loses_nothing_and_emptying_needs_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal(tmp_path).append([scored(0), scored(1)])
    journal = Journal(tmp_path)

    def full(file: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="full"):
        journal.keep_only({scored(0).trajectory.sample_id})
    assert read(Journal(tmp_path)) == [(0, 0), (1, 0)]
    journal.keep_only(())
    assert files(tmp_path) == []
