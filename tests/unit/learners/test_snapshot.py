"""Snapshots of the learner: nothing is lost between two steps, and nothing foreign is taken for one's own."""

import asyncio
import errno
import json
import math
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gkd_dist import fault_points
from gkd_dist.config.learner import LearnerConfig
from gkd_dist.config.lora import LoraConfig
from gkd_dist.divergences import ForwardKl
from gkd_dist.errors import EngineError, ModelError
from gkd_dist.learners import snapshot as snapshot_module
from gkd_dist.learners.learner import GkdLearner
from gkd_dist.learners.load import load_student
from gkd_dist.learners.objective import Distillation
from gkd_dist.learners.step import LossSettings
from gkd_dist.learners.targets import TargetRules, TeacherView
from gkd_dist.targets import FullTargets
from gkd_dist.types import StepReport, TrainBatch
from gkd_dist.weights.publisher import WeightPublisher
from tests import tiny

REPOSITORY = Path(__file__).parents[3]
LORA = LoraConfig(r=4)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("student"), seed=1)


def make_learner(
    path: Path, lora: LoraConfig | None = None, *, gradient_checkpointing: bool = False, **config: Any
) -> GkdLearner:
    defaults = {"bf16": False, "max_steps": 10, "learning_rate": 1e-2, "warmup_steps": 4, "weight_decay": 0.1}
    settings = LossSettings(
        objective=Distillation(ForwardKl(), {"teacher": TeacherView(None, 1.0)}, TargetRules(num_ids=tiny.VOCABULARY)),
        reduction="sequence_mean",
        bf16=False,
        max_micro_batch_tokens=64,
        pad_token_id=tiny.PAD,
        num_ids=tiny.VOCABULARY,
    )
    return GkdLearner(
        load_student(path, gradient_checkpointing=gradient_checkpointing, lora=lora),
        source=path,
        config=LearnerConfig(**(defaults | config)),
        settings=settings,
        publisher=WeightPublisher("epoch", 1 << 16, "float32"),
    )


def batch(step: int, *, poisoned: bool = False) -> TrainBatch:
    """Another one for every step."""
    items = tiny.trajectories([(4, 6), (3, 5)], seed=step)
    rng = np.random.default_rng(step)
    rows = [rng.normal(size=(item.num_completion_tokens, tiny.VOCABULARY)).astype(np.float32) for item in items]
    log_probs = [torch.log_softmax(torch.from_numpy(row), -1).numpy() for row in rows]
    if poisoned:
        log_probs[1] = np.full_like(log_probs[1], np.nan)
    return TrainBatch(step, tuple(tiny.scored(items, [FullTargets(row) for row in log_probs])), 2, 11)


async def train(learner: GkdLearner, first: int, last: int) -> list[StepReport]:
    return [replace(await learner.train(batch(step)), seconds={}) for step in range(first, last)]


async def saved(learner: GkdLearner, folder: Path) -> dict[str, bytes]:
    """Every file of a snapshot taken now, by name: parameters, moments, random state, numbers."""
    folder.mkdir()
    await learner.snapshot()
    await learner.write_snapshot(folder)
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


KINDS: dict[str, dict[str, Any]] = {
    "full, AdamW": {},
    "full, Adafactor": {"optimizer": "adafactor"},
    "full, AdamW, checkpointing, cosine": {"gradient_checkpointing": True, "lr_scheduler_type": "cosine"},
    "LoRA, AdamW": {"lora": LORA},
    "LoRA, Adafactor, checkpointing": {"lora": LORA, "optimizer": "adafactor", "gradient_checkpointing": True},
}


@pytest.mark.fault(10)
@pytest.mark.parametrize("kind", KINDS)
def test_three_steps_and_three_by_a_restored_learner_equal_six_to_the_last_bit(
    path: Path, tmp_path: Path, kind: str
) -> None:
    """Losses, learning rates, parameters, moments, random state. The second learner has lived before."""

    async def scenario() -> None:
        torch.manual_seed(11)
        whole, first, second = (make_learner(path, **KINDS[kind]) for _ in range(3))
        reports = await train(whole, 0, 6)
        expected = await saved(whole, tmp_path / "whole")

        torch.manual_seed(11)
        halves = await train(first, 0, 3)
        before = await saved(first, tmp_path / "half")
        torch.manual_seed(99)
        await train(second, 0, 1)
        assert await second.restore(tmp_path / "half") == 3
        assert await saved(second, tmp_path / "restored") == before
        halves += await train(second, 3, 6)
        assert await saved(second, tmp_path / "end") == expected
        assert halves == reports
        assert len({report.learning_rate for report in reports}) > 3
        assert (await second.publish()).manifest.digests == (await whole.publish()).manifest.digests
        assert before != expected

    asyncio.run(scenario())


@pytest.mark.fault(10)
@pytest.mark.parametrize("moment", ["after_forward", "after_backward", "in_optimizer_step", "after_step"])
def test_nothing_of_a_step_that_broke_off_survives_a_restore(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Not its gradient, not its half of an update. The witness is the file that the fault point leaves."""
    monkeypatch.setattr(fault_points, "_hits", Counter())
    (tmp_path / "witness").mkdir()

    async def scenario() -> None:
        learner = make_learner(path)
        await train(learner, 0, 2)
        before = await saved(learner, tmp_path / "a")
        with monkeypatch.context() as patch:
            patch.setenv("GKD_FAULTS", f"learner.{moment}:raise")
            patch.setenv("GKD_FAULTS_WITNESS", str(tmp_path / "witness"))
            with pytest.raises(EngineError, match=f"fault point learner.{moment}"):
                await learner.train(batch(2))
        assert [file.name for file in (tmp_path / "witness").iterdir()] == [f"learner.{moment}.raise.1"]
        assert await learner.restore(tmp_path / "a") == 2
        assert await saved(learner, tmp_path / "b") == before
        reports = await train(learner, 2, 4)
        clean = make_learner(path)
        assert (await train(clean, 0, 4))[2:] == reports
        assert (await clean.publish()).manifest.digests == (await learner.publish()).manifest.digests

    asyncio.run(scenario())


def test_a_snapshot_of_step_0_restores_a_learner_without_moments(path: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        learner = make_learner(path)
        fresh = await saved(learner, tmp_path / "a")
        reports = await train(learner, 0, 2)
        assert await learner.restore(tmp_path / "a") == 0
        assert await saved(learner, tmp_path / "b") == fresh
        assert await train(learner, 0, 2) == reports

    asyncio.run(scenario())


def test_a_restored_learner_knows_how_many_steps_were_skipped(path: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        learner = make_learner(path, max_nonfinite_steps=2)
        await learner.train(batch(0, poisoned=True))
        await saved(learner, tmp_path / "a")
        other = make_learner(path, max_nonfinite_steps=2)
        await other.restore(tmp_path / "a")
        with pytest.raises(EngineError, match="2 steps in a row"):
            await other.train(batch(1, poisoned=True))

    asyncio.run(scenario())


@pytest.mark.fault(24)
def test_a_step_that_is_not_finite_leaves_no_trace_in_what_is_published_or_saved(path: Path, tmp_path: Path) -> None:
    """Parameters, moments, schedule: all but the counters."""

    async def scenario() -> None:
        learner = make_learner(path)
        await train(learner, 0, 2)
        before, weights = await saved(learner, tmp_path / "a"), (await learner.publish()).manifest.digests
        report = await learner.train(batch(2, poisoned=True))
        assert report.num_skipped == 1, "the witness"
        assert math.isnan(report.loss)
        after = await saved(learner, tmp_path / "b")
        assert (await learner.publish()).manifest.digests == weights
        counters = ({"step": 2, "nonfinite_in_a_row": 0}, {"step": 3, "nonfinite_in_a_row": 1})
        for files, expected in zip((before, after), counters, strict=True):
            numbers = json.loads(files.pop("rank-0/learner.json"))
            assert {name: numbers.pop(name) for name in expected} == expected
            files["rest"] = json.dumps(numbers).encode()
        assert after == before

    asyncio.run(scenario())


@pytest.mark.fault(24)
def test_parameters_that_are_not_finite_are_never_saved(path: Path) -> None:
    async def scenario() -> None:
        learner = make_learner(path)
        learner._student.model.model.norm.weight.data[3] = math.inf
        with pytest.raises(EngineError, match=r"model\.norm\.weight is not finite"):
            await learner.snapshot()

    asyncio.run(scenario())


# Row 32: writing takes as long as it takes.


@pytest.mark.fault(32)
def test_training_goes_on_while_a_snapshot_is_written_and_is_not_seen_by_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk stands still until training and a second snapshot are done; one is written after the other."""
    gate, writing = threading.Event(), []
    save_file = snapshot_module.save_file

    def slow(tensors: dict[str, torch.Tensor], file: Path) -> None:
        writing.append(file)
        assert gate.wait(60)
        save_file(tensors, file)

    async def scenario() -> None:
        learner = make_learner(path)
        await train(learner, 0, 2)
        expected = await saved(learner, tmp_path / "expected")
        monkeypatch.setattr(snapshot_module, "save_file", slow)
        folders = [tmp_path / name for name in ("first", "second")]
        for folder in folders:
            folder.mkdir()
        assert await learner.snapshot() == 2
        first = asyncio.create_task(learner.write_snapshot(folders[0]))
        while not writing:
            await asyncio.sleep(0)
        await train(learner, 2, 4)
        assert await learner.snapshot() == 4
        second = asyncio.create_task(learner.write_snapshot(folders[1]))
        await train(learner, 4, 5)
        assert not first.done()
        assert len(writing) == 1, "one at a time"
        gate.set()
        await asyncio.gather(first, second)
        assert {str(file.relative_to(folders[0])): file.read_bytes() for file in folders[0].rglob("*.*")} == expected
        assert await learner.restore(folders[1]) == 4

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_what_was_written_is_forgotten(path: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        learner = make_learner(path)
        with pytest.raises(EngineError, match="take one first"):
            await learner.write_snapshot(tmp_path)
        await saved(learner, tmp_path / "a")
        with pytest.raises(EngineError, match="take one first"):
            await learner.write_snapshot(tmp_path)

    asyncio.run(scenario())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this machine allows no mount: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault(31)
def test_a_full_disk_is_an_error_of_the_disk_and_the_snapshot_can_be_written_elsewhere(
    path: Path, small_disk: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        learner = make_learner(path)
        await train(learner, 0, 1)
        await learner.snapshot()
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            await learner.write_snapshot(small_disk)
        await train(learner, 1, 2)
        (tmp_path / "b").mkdir()
        await learner.write_snapshot(tmp_path / "b")
        assert await make_learner(path).restore(tmp_path / "b") == 1

    asyncio.run(scenario())


# Row 27: of another learner.


def other_model(tmp_path: Path) -> Path:
    return tiny.save_causal(tmp_path / "other", seed=1, num_layers=3)


OTHERS: dict[str, tuple[Callable[[Path, Path], GkdLearner], list[str]]] = {
    "optimizer": (
        lambda path, _: make_learner(path, optimizer="adafactor"),
        ["optimizer: 'AdamW' in the checkpoint, 'Adafactor' here"],
    ),
    "settings": (
        lambda path, _: make_learner(path, adam_beta1=0.8),
        [r"optimizer settings, 0, betas: \[0.9, 0.999\] in the checkpoint, \[0.8, 0.999\] here"],
    ),
    "layers": (
        lambda _, tmp: make_learner(other_model(tmp)),
        [r"model.layers.2.self_attn.q_proj.weight: 'absent' in the checkpoint, .*128.* here", "and 1 more"],
    ),
    "adapters": (
        lambda path, _: make_learner(path, LORA),
        ["lora: None in the checkpoint, {'r': 4.* here", "and .* more"],
    ),
}


@pytest.mark.fault(27)
@pytest.mark.parametrize("other", OTHERS)
def test_the_state_of_another_learner_is_refused_by_naming_the_differences(
    path: Path, tmp_path: Path, other: str
) -> None:
    make, expected = OTHERS[other]

    async def scenario() -> None:
        writer, reader = make_learner(path), make(path, tmp_path)
        await train(writer, 0, 1)
        await saved(writer, tmp_path / "theirs")
        before = await saved(reader, tmp_path / "before")
        with pytest.raises(ModelError) as caught:
            await reader.restore(tmp_path / "theirs")
        for line in expected:
            caught.match(line)
        caught.match("checkpoint.resume=false")
        assert await saved(reader, tmp_path / "after") == before, "nothing has changed"

    asyncio.run(scenario())


@pytest.mark.fault(27)
@pytest.mark.parametrize("change", [{"lora_alpha": 8}, {"use_rslora": True}, {"r": 8}])
def test_other_adapters_are_refused(path: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    async def scenario() -> None:
        await saved(make_learner(path, LORA), tmp_path / "a")
        with pytest.raises(ModelError, match=f"lora, {next(iter(change))}: "):
            await make_learner(path, LORA.model_copy(update=change)).restore(tmp_path / "a")

    asyncio.run(scenario())


@pytest.mark.fault(27)
def test_adapters_on_another_base_are_refused(path: Path, tmp_path: Path) -> None:
    """Same names and shapes, other frozen weights."""
    base = tiny.save_causal(tmp_path / "base", seed=5)

    async def scenario() -> None:
        await saved(make_learner(path, LORA), tmp_path / "a")
        with pytest.raises(ModelError, match=r"frozen parameters \(checksum\)"):
            await make_learner(base, LORA).restore(tmp_path / "a")

    asyncio.run(scenario())


@pytest.mark.fault(27)
def test_another_number_of_ranks_is_refused(path: Path, tmp_path: Path) -> None:
    learner = make_learner(path)
    asyncio.run(saved(learner, tmp_path / "a"))
    for rank in (0, 1):
        state = snapshot_module.LearnerState(
            learner._student, learner._optimizer, learner._schedule, rank=rank, world_size=2
        )
        with pytest.raises(ModelError, match="learner ranks: 1 in the checkpoint, 2 here"):
            state.load(tmp_path / "a")


def test_another_learning_rate_goes_on_from_where_its_schedule_is(path: Path, tmp_path: Path) -> None:
    """What a run that diverged needs; warm-up of 4 steps, so the third has 3/4 of the full rate."""

    async def scenario() -> None:
        learner, slower = make_learner(path), make_learner(path, learning_rate=1e-3)
        await train(learner, 0, 2)
        await saved(learner, tmp_path / "a")
        await slower.restore(tmp_path / "a")
        (report,) = await train(slower, 2, 3)
        assert report.learning_rate == pytest.approx(0.75e-3)

    asyncio.run(scenario())


# Rows 26 and 28: damaged and hostile files.


def hostile(marker: Path) -> bytes:
    """A pickle that makes a folder when it is loaded, written by hand."""
    return b"cos\nmkdir\n(V" + str(marker).encode() + b"\ntR."


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    "name", ["parameters.safetensors", "optimizer.safetensors", "random.safetensors", "learner.json"]
)
@pytest.mark.parametrize("damage", ["hostile", "truncated", "missing", "another's"])
def test_damaged_and_hostile_files_are_refused_and_never_run(
    path: Path, tmp_path: Path, name: str, damage: str
) -> None:
    async def scenario() -> None:
        learner, marker = make_learner(path), tmp_path / "executed"
        await train(learner, 0, 1)
        before = await saved(learner, tmp_path / "a")
        file = tmp_path / "a" / "rank-0" / name
        match damage:
            case "hostile":
                file.write_bytes(hostile(marker))
            case "truncated":
                os.truncate(file, file.stat().st_size - 1)
            case "missing":
                file.unlink()
            case _:
                rest = sorted(other for other in file.parent.iterdir() if other != file)
                file.write_bytes(rest[-1].read_bytes())
        with pytest.raises(ModelError, match=name):
            await learner.restore(tmp_path / "a")
        assert not marker.exists()
        assert await saved(learner, tmp_path / "b") == before, "nothing has changed"

    asyncio.run(scenario())


def test_the_payload_of_the_former_test_would_have_run(tmp_path: Path) -> None:
    """The witness, in a process of its own."""
    (tmp_path / "file").write_bytes(hostile(tmp_path / "executed"))
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], check=True, timeout=60)
    assert (tmp_path / "executed").is_dir()


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1},
        {"step": "3"},
        {"version": 9},
        {"schedule_steps": None},
        {"tensors": {}},
        {"optimizer_scalars": []},
        {"optimizer_scalars": {"strange": {"step": 1}}},
        {"whose": 3},
    ],
)
def test_numbers_that_no_learner_writes_are_refused(path: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    async def scenario() -> None:
        learner = make_learner(path)
        await saved(learner, tmp_path / "a")
        file = tmp_path / "a" / "rank-0" / "learner.json"
        file.write_text(json.dumps(json.loads(file.read_bytes()) | change))
        with pytest.raises(ModelError):
            await learner.restore(tmp_path / "a")

    asyncio.run(scenario())
