"""Where a run goes on when the ends of its checkpoints, its ledger and its journal are gone: as far as they agree."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.errors import LearnerLostError, RejectedError, UserError
from gkd_dist.fleet import Fleet
from gkd_dist.local import LocalJournal
from gkd_dist.pipeline.job import Job, distil
from gkd_dist.pipeline.progress import Progress
from gkd_dist.pipeline.recovery_point import find_recovery_point, return_to
from gkd_dist.pipeline.ring import Plan
from gkd_dist.replay.ledger import Ledger, StepEntry, TrainedSequence
from gkd_dist.replay.sample_ids import SampleIdSet
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import Prompt, SampleId, SamplingParams, Source, StepReport, TrainBatch, Trajectory
from tests.fleets import fleet_of
from tests.rings import BATCH, make_job, make_plan

STEPS = 10
DIES_AT = 9
CHECKPOINTS = (2, 4, 6, 8)
REFUSED = 5
"""Row of the data that no sampler answers."""


class Choosy(FakeSampler):
    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        if any(prompt.sample_id.prompt_index == REFUSED for prompt in prompts):
            raise RejectedError("too long")
        return await super().sample(prompts, params)


class Patient(FakeLearner):
    """Goes on when the save that was begun is through; may die."""

    job: Job

    def __init__(self, run_epoch: str, dies_at: int | None = None) -> None:
        super().__init__(run_epoch)
        self._dies_at = dies_at

    async def train(self, batch: TrainBatch) -> StepReport:
        ring = self.job.stage.ring
        assert ring is not None and ring.checkpointer is not None
        await ring.checkpointer.settle()
        if batch.step == self._dies_at:
            raise LearnerLostError("the learner died")
        return await super().train(batch)


def plan_of() -> Plan:
    return make_plan(STEPS, 1.0, whole_steps=False, max_staleness=2, replay_capacity=3 * BATCH)


def job_of(folder: Path, learner: Patient, said: list[str]) -> Job:
    fleet: Fleet = fleet_of([Choosy()], {"teacher": [FakeTeacher()]}, learner)
    job = make_job(plan_of(), fleet, folder, save_steps=2, narrate=said.append)
    store = CheckpointStore(folder / "checkpoints", len(CHECKPOINTS))
    durability = replace(job.durability, store=store, journal=LocalJournal(folder / "journal"))
    learner.job = replace(job, durability=durability)
    return learner.job


def go(job: Job) -> None:
    async def turn() -> None:
        try:
            await asyncio.wait_for(distil(job), timeout=20)
        finally:
            await job.durability.close()
            if job.durability.journal is not None:
                await job.durability.journal.close()

    asyncio.run(turn())


@pytest.fixture(scope="module")
def died(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that died in its last step, with four checkpoints."""
    folder = tmp_path_factory.mktemp("died")
    with pytest.raises(LearnerLostError):
        go(job_of(folder, Patient("0", DIES_AT), []))
    assert sorted(path.name for path in folder.glob("checkpoints/step-*")) == [f"step-{step}" for step in CHECKPOINTS]
    return folder


def cut(path: Path, share: float) -> None:
    """Only so much of it is left."""
    with path.open("r+b") as file:
        file.truncate(int(share * path.stat().st_size))


def num_steps_named(ledger: Path) -> int:
    """By whole lines, without a look at the code."""
    lines = [json.loads(line) for line in ledger.read_bytes().split(b"\n")[:-1]]
    return sum(line["kind"] == "step" for line in lines)


shares = st.floats(0.0, 1.0, exclude_max=True)


@pytest.mark.fault(22)
@pytest.mark.fault(26)
@settings(max_examples=30, deadline=None)
@given(
    ledger=st.none() | shares,
    checkpoints=st.fixed_dictionaries({step: st.none() | st.none() | shares for step in CHECKPOINTS}),
    journal=st.none() | shares,
    file=st.integers(0, 9),
)
def test_whatever_is_cut_off_every_row_is_trained_on_once_from_where_checkpoints_and_ledger_agree(
    died: Path, ledger: float | None, checkpoints: dict[int, float | None], journal: float | None, file: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        shutil.copytree(died, folder)
        if ledger is not None:
            cut(folder / "ledger.jsonl", ledger)
        for step, share in checkpoints.items():
            files = sorted(path for path in (folder / f"checkpoints/step-{step}").rglob("*") if path.is_file())
            if share is not None:
                cut(files[file % len(files)], share)
        for segment in (folder / "journal").iterdir():
            if journal is not None:
                cut(segment, journal)
        named = num_steps_named(folder / "ledger.jsonl")
        usable = [step for step, share in checkpoints.items() if share is None and step <= named]
        said: list[str] = []
        job = job_of(folder, learner := Patient("1"), said)
        if not usable:
            with pytest.raises(
                UserError, match=r"(?s)no checkpoint in .* can be used:\n  step-8: .*student\.model can"
            ):
                go(job)
            return
        go(job)
        instead = " instead" if max(usable) < max(CHECKPOINTS) else ""
        assert any(line.startswith(f"going on after step {max(usable)}{instead}, from ") for line in said)
        assert [batch.step for batch in learner.batches] == list(range(max(usable), STEPS))
        entries = list(Ledger(folder / "ledger.jsonl").entries())
        steps = [entry for entry in entries if isinstance(entry, StepEntry)]
        trained = [sequence.sample_id.prompt_index for entry in steps for sequence in entry.sequences]
        assert [entry.step for entry in steps] == list(range(STEPS))
        assert sorted(trained) == [index for index in range(STEPS * BATCH + 1) if index != REFUSED]
        assert [entry.sample_id.prompt_index for entry in entries if entry not in steps] == [REFUSED]
        for path in folder.glob("checkpoints/step-*"):
            progress = Progress.read(path)
            fault = Ledger(folder / "ledger.jsonl").fault(progress.step, run="test", trained=progress.trained)
            assert fault is None, "no checkpoint of a time line that is void is left"


# One step at a time.


def sequence(index: int) -> TrainedSequence:
    return TrainedSequence(SampleId("r", index), 0, Source.GROUND_TRUTH, None, ("teacher",), 1, 0)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[CheckpointStore, Ledger]]:
    """Checkpoints of steps 1 to 3; step N trained on sequence 10 + N."""
    store, ledger = CheckpointStore(tmp_path / "checkpoints", keep=9), Ledger(tmp_path / "ledger.jsonl")
    trained = SampleIdSet()
    for step in range(3):
        ledger.append(StepEntry(step, 0, 0.0, 0, (sequence(10 + step),)))
        trained.add(SampleId("r", 10 + step))
        Progress("r", step + 1, trained).write(store.draft(step + 1))
        store.commit(step + 1)
    yield store, ledger
    ledger.close()


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def cut_last_record(ledger: Ledger) -> None:
    ledger.close()
    with ledger.path.open("r+b") as file:
        file.truncate(ledger.path.stat().st_size - 3)


def test_a_ledger_cut_inside_of_its_last_record_costs_one_checkpoint(stores: tuple[CheckpointStore, Ledger]) -> None:
    store, ledger = stores
    cut_last_record(ledger)
    point = find_recovery_point("r", store, ledger)
    assert (point.progress.step, point.progress.trained.ranges()) == (2, {0: [(10, 12)]})
    assert point.checkpoint is not None
    assert [(each.path.name, each.reason) for each in point.checkpoint.discarded] == [
        ("step-3", "the ledger ends after 2 steps")
    ]
    assert names(store) == ["step-1", "step-2", "step-3"], "so far nothing has changed"


def test_a_line_lost_from_the_middle_leads_back_to_the_newest_checkpoint_before_it(
    stores: tuple[CheckpointStore, Ledger],
) -> None:
    store, ledger = stores
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(lines[0] + lines[2])
    point = find_recovery_point("r", store, ledger)
    assert point.checkpoint is not None
    assert [(each.path.name, each.reason) for each in point.checkpoint.discarded] == [
        ("step-3", "the ledger has step 2 where step 1 belongs"),
        ("step-2", "the ledger ends after 1 steps"),
    ]
    assert (point.progress.step, return_to(point, store, ledger)) == (1, 1)
    assert ledger.path.read_bytes() == lines[0]


def test_a_run_that_goes_on_parses_each_line_of_its_ledger_once(
    stores: tuple[CheckpointStore, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for the newest of three checkpoints, which it covers as little as the next, before engines start and again
    when they have; then it is cut."""
    store, ledger = stores
    for step in (2, 3):
        Progress("r", step, SampleIdSet()).write(store.path_of(step))  # whole as far as this store remembers
    parsed, parse = [], Ledger._parse

    def count(self: Ledger, line: bytes) -> object:
        parsed.append(line)
        return parse(self, line)

    monkeypatch.setattr(Ledger, "_parse", count)
    points = [find_recovery_point("r", store, ledger) for _ in range(2)]
    assert [point.progress.step for point in points] == [1, 1]
    assert return_to(points[-1], store, ledger) == 2
    assert len(parsed) == 3


def test_where_there_is_no_checkpoint_a_run_begins(tmp_path: Path) -> None:
    point = find_recovery_point("r", CheckpointStore(tmp_path / "checkpoints", 2), Ledger(tmp_path / "ledger.jsonl"))
    assert (point.progress.run, point.progress.step, point.checkpoint) == ("r", 0, None)


def test_the_next_checkpoint_of_a_step_is_not_mistaken_for_one_of_the_void_time_line(
    stores: tuple[CheckpointStore, Ledger],
) -> None:
    store, ledger = stores
    cut_last_record(ledger)
    assert return_to(find_recovery_point("r", store, ledger), store, ledger) == 1
    assert names(store) == ["step-1", "step-2", "void-step-3"]
    ledger.append(StepEntry(2, 1, 0.0, 0, (sequence(77),)))
    Progress("r", 3, ledger.trained()).write(store.draft(3))
    store.commit(3)
    assert Progress.read(store.path_of(3)).trained.ranges() == {0: [(10, 12), (77, 78)]}
    assert find_recovery_point("r", store, ledger).progress.step == 3
    store.prune()
    assert names(store) == ["step-1", "step-2", "step-3"], "what is void goes when there is a newer one"


def test_a_crash_before_the_ledger_is_cut_leads_to_the_same_point(stores: tuple[CheckpointStore, Ledger]) -> None:
    store, ledger = stores
    (store.path_of(3) / "ring.json").write_text("damaged")

    class Full(Ledger):
        def truncate(self, *_: object, **__: object) -> int:
            raise OSError(28, "No space left on device")

    again = CheckpointStore(store.folder, keep=9)
    with pytest.raises(OSError, match="No space left"):
        return_to(find_recovery_point("r", again, ledger), again, Full(ledger.path))
    assert names(again) == ["step-1", "step-2", "void-step-3"], "witness: the first half was done"
    third = CheckpointStore(store.folder, keep=9)
    point = find_recovery_point("r", third, ledger)
    assert (point.progress.step, return_to(point, third, ledger)) == (2, 1)
    assert ledger.trained().ranges() == {0: [(10, 12)]}
