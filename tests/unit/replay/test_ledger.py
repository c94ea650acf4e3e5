"""The ledger: what was trained on, after any crash."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.errors import DataError
from gkd_dist.replay.ledger import DroppedPrompt, Ledger, StepEntry, TrainedSequence
from gkd_dist.replay.sample_ids import SampleIdSet
from gkd_dist.types import SampleId, Source, VersionRange


def entry(step: int, *indices: int, attempt: int = 0) -> StepEntry:
    """One student sequence per index, and a fixed pair at position 1000 + step."""
    sequences = [
        TrainedSequence(SampleId("run-1", index, 1), 2, Source.STUDENT, VersionRange(1, 3), ("large", "small"), 1, 4)
        for index in indices
    ]
    pair = TrainedSequence(SampleId("run-1", 1000 + step), 0, Source.GROUND_TRUTH, None, ("large",), 1, 0)
    return StepEntry(step, attempt, 0.1, len(indices), (*sequences, pair))


def dropped(step: int, index: int) -> DroppedPrompt:
    return DroppedPrompt(step, SampleId("run-1", index), 'too long: "q\u00e9"\n')


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "run" / "ledger.jsonl")


def test_a_ledger_that_was_never_written_is_empty_and_reading_makes_no_file(ledger: Ledger) -> None:
    assert list(ledger.entries()) == []
    assert ledger.entry(0) is None
    assert len(ledger.trained()) == 0
    assert ledger.truncate(0) == 0
    ledger.sync()
    assert not ledger.path.exists()


def test_what_was_appended_is_read_back_at_once_by_another_reader(ledger: Ledger) -> None:
    written = [entry(0, 3, 4), dropped(1, 9), entry(1)]
    for number, item in enumerate(written, start=1):
        ledger.append(item)
        assert list(Ledger(ledger.path).entries()) == written[:number]
    assert ledger.entry(1) == entry(1)
    assert ledger.entry(2) is None
    assert ledger.dropped() == [dropped(1, 9)]
    assert len(ledger.path.read_text().splitlines()) == 3


def test_trained_ids_are_those_of_all_steps_and_not_the_dropped_ones(ledger: Ledger) -> None:
    for item in (entry(0, 3, 4), dropped(1, 9), entry(1, 5)):
        ledger.append(item)
    assert ledger.trained().ranges() == {0: [(1000, 1002)], 1: [(3, 6)]}


def test_resuming_drops_what_the_checkpoint_does_not_know(ledger: Ledger) -> None:
    for item in (entry(0, 3), dropped(2, 9), entry(1, 4), entry(2, 5), dropped(2, 10)):
        ledger.append(item)
    assert ledger.truncate(2) == 3
    assert list(ledger.entries()) == [entry(0, 3), entry(1, 4)]
    ledger.append(entry(2, 6, attempt=1))
    assert list(Ledger(ledger.path).entries()) == [entry(0, 3), entry(1, 4), entry(2, 6, attempt=1)]
    assert os.listdir(ledger.path.parent) == ["ledger.jsonl"]


@pytest.mark.parametrize("tail", [b'{"kind": "st', b"\x00" * 50, b"\xff\xfe", b'{"kind": "other"}'])
@pytest.mark.parametrize("ended", [b"", b"\n"])
def test_a_torn_last_line_is_no_entry(ledger: Ledger, tail: bytes, ended: bytes) -> None:
    ledger.append(entry(0, 3))
    ledger.close()
    with ledger.path.open("ab") as file:
        file.write(tail + ended)
    resumed = Ledger(ledger.path)
    assert list(resumed.entries()) == [entry(0, 3)]
    assert resumed.truncate(1) == 1
    resumed.append(entry(1, 4))
    assert list(resumed.entries()) == [entry(0, 3), entry(1, 4)]


def test_an_append_replaces_a_line_that_was_cut_off(ledger: Ledger) -> None:
    ledger.append(entry(0, 3))
    with ledger.path.open("ab") as file:
        file.write(b'{"kind":"step","step":1' + b" " * 200_000)
    again = Ledger(ledger.path)
    again.append(entry(1, 4))
    assert list(again.entries()) == [entry(0, 3), entry(1, 4)]


def test_damage_before_the_last_entry_is_never_skipped(ledger: Ledger) -> None:
    for step in range(3):
        ledger.append(entry(step, step))
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
    damaged = Ledger(ledger.path)
    for use in (lambda: list(damaged.entries()), damaged.trained, lambda: damaged.truncate(3)):
        with pytest.raises(DataError, match="line 2 is damaged"):
            use()
    assert damaged.truncate(1) == 2, "nothing that stays lies behind the damage"
    assert list(damaged.entries()) == [entry(0, 0)]


@pytest.mark.fault(31)
def test_an_append_that_fails_leaves_no_half_line(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes 10 bytes of the line, then is full."""
    ledger.append(entry(0, 3))
    write, calls = os.write, []

    def ten_bytes(file: int, data: memoryview) -> int:
        calls.append(data.nbytes)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "full")
        return write(file, data[:10])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", ten_bytes)
        with pytest.raises(OSError, match="full"):
            ledger.append(entry(1, 4))
    assert len(calls) == 2
    assert list(Ledger(ledger.path).entries()) == [entry(0, 3)]
    ledger.append(entry(1, 4))
    assert list(Ledger(ledger.path).entries()) == [entry(0, 3), entry(1, 4)]


@given(cut=st.integers(0, 2000), step=st.integers(0, 5))
def test_cut_anywhere_a_ledger_gives_a_prefix_and_can_go_on(cut: int, step: int) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        written = [entry(0, 1, 2), dropped(1, 7), entry(1, 3), entry(2), entry(3, 4)]
        ledger = Ledger(folder / "ledger.jsonl")
        for item in written:
            ledger.append(item)
        ledger.close()
        data = ledger.path.read_bytes()[:cut]
        ledger.path.write_bytes(data)
        whole = written[: data.count(b"\n")]
        again = Ledger(ledger.path)
        assert list(again.entries()) == whole
        again.truncate(step)
        kept = [item for item in whole if item.step < step]
        assert list(again.entries()) == kept
        again.append(entry(step, 50))
        assert list(Ledger(ledger.path).entries()) == [*kept, entry(step, 50)]
    finally:
        shutil.rmtree(folder)


def test_what_a_checkpoint_holds_as_given_up_stays(ledger: Ledger) -> None:
    for item in (entry(0, 3), dropped(1, 8), entry(1, 4), dropped(2, 9), dropped(2, 10), entry(2, 5)):
        ledger.append(item)
    given_up = SampleIdSet()
    given_up.update([dropped(1, 8).sample_id, dropped(2, 9).sample_id])
    assert ledger.truncate(2, dropped=given_up) == 2
    assert list(ledger.entries()) == [entry(0, 3), dropped(1, 8), entry(1, 4), dropped(2, 9)]


HARM = {
    "lost": "the ledger ends after 0 steps",
    "cut": "the ledger ends after 2 steps",
    "of another run": "the ledger is that of run 'run-1', not of 'run-0'",
    "without a step": "the ledger has step 2 where step 1 belongs",
    "with a step twice": "the ledger has step 1 where step 2 belongs",
    "damaged": "line 2 of the ledger is damaged",
    "of other sequences": "the ledger names 6 sequences for its steps, the checkpoint 6 others",
    "of more sequences": "the ledger names 6 sequences for its steps, the checkpoint 5",
}


@pytest.mark.parametrize("harm", HARM)
def test_a_checkpoint_that_the_ledger_does_not_cover_is_told_why(ledger: Ledger, harm: str) -> None:
    for step in range(3):
        ledger.append(entry(step, step))
    known = ledger.trained()
    ledger.append(entry(3, 3))
    ledger.close()
    assert ledger.fault(3, run="run-1", trained=known) is None, "later steps do not count"
    lines, run = ledger.path.read_bytes().splitlines(keepends=True), "run-1"
    match harm:
        case "lost":
            ledger.path.unlink()
        case "cut":
            ledger.path.write_bytes(b"".join(lines)[: -len(lines[3]) - 1])
        case "of another run":
            run = "run-0"
        case "without a step":
            ledger.path.write_bytes(lines[0] + lines[2] + lines[3])
        case "with a step twice":
            ledger.path.write_bytes(lines[0] + lines[1] + lines[1] + lines[2])
        case "damaged":
            ledger.path.write_bytes(lines[0] + b"{}\n" + lines[2])
        case "of other sequences":
            known = SampleIdSet({0: [(1000, 1003)], 1: [(1, 4)]})
        case "of more sequences":
            known = SampleIdSet({0: [(1000, 1003)], 1: [(0, 2)]})
    before = ledger.path.read_bytes() if ledger.path.exists() else None
    assert ledger.fault(3, run=run, trained=known) == HARM[harm]
    assert (ledger.path.read_bytes() if ledger.path.exists() else None) == before


def test_what_changed_after_it_was_looked_at_is_looked_at_again(ledger: Ledger) -> None:
    for step in range(3):
        ledger.append(entry(step, step))
    known = ledger.trained()
    assert ledger.fault(3, run="run-1", trained=known) is None
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(lines[0] + lines[2])
    assert ledger.fault(3, run="run-1", trained=known) == "the ledger has step 2 where step 1 belongs"
    ledger.path.unlink()
    assert ledger.fault(3, run="run-1", trained=known) == "the ledger ends after 0 steps"


def test_what_a_checkpoint_holds_as_given_up_comes_back_where_it_was_lost(ledger: Ledger) -> None:
    """Also where there is no ledger: the checkpoint is of step 0."""
    given_up = SampleIdSet()
    given_up.update([dropped(0, 8).sample_id, dropped(0, 9).sample_id])
    restored = [DroppedPrompt(1, SampleId("run-1", index), "rejected") for index in (8, 9)]
    ledger.path.parent.mkdir()
    assert ledger.truncate(1, run="run-1", dropped=given_up) == 0
    assert list(ledger.entries()) == restored
    ledger.path.unlink()
    for item in (entry(0, 3), dropped(0, 8), entry(1, 4)):
        ledger.append(item)
    assert ledger.truncate(1, run="run-1", dropped=given_up) == 1
    assert list(ledger.entries()) == [entry(0, 3), dropped(0, 8), restored[1]]


def test_damage_before_a_prompt_that_was_given_up_is_no_reason_to_refuse(ledger: Ledger) -> None:
    ledger.append(entry(0, 3))
    ledger.close()
    with ledger.path.open("ab") as file:
        file.write(b'{"kind": "step", "step": 1\n')
    Ledger(ledger.path).append(dropped(1, 8))
    given_up = SampleIdSet()
    given_up.add(dropped(1, 8).sample_id)
    assert ledger.truncate(1, run="run-1", dropped=given_up) == 1
    assert list(ledger.entries()) == [entry(0, 3), dropped(1, 8)]
