"""The sentinel in a run with a real teacher and learner: it changes nothing that is trained."""

import json
from pathlib import Path

import numpy as np
import pytest

from gkd_dist.cli import main
from gkd_dist.learners.learner import GkdLearner
from gkd_dist.types import StepReport, TrainBatch
from tests import tiny


def test_the_sentinel_changes_no_target_and_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.save_causal(tmp_path / "student", seed=1)
    tiny.save_causal(tmp_path / "teacher", seed=2, num_layers=3)
    rows = [{"prompt": f"w{3 + row} w{40 + row} w9", "completion": f"w7 w{50 + row} w9"} for row in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = GkdLearner.train
    seen: list[tuple[TrainBatch, StepReport]] = []

    async def watched(learner: GkdLearner, batch: TrainBatch) -> StepReport:
        seen.append((batch, await train(learner, batch)))
        return seen[-1][1]

    monkeypatch.setattr(GkdLearner, "train", watched)
    runs = []
    for steps in (0, 1):
        seen.clear()
        models = (f"student.model={tmp_path / 'student'}", f"teacher.model={tmp_path / 'teacher'}")
        extra = (f"data.path={tmp_path / 'pairs.jsonl'}", f"output_dir={tmp_path / str(steps)}")
        settings = (f"teacher.sentinel_steps={steps}", "teacher.score_cache_bytes=0")
        assert main(["run", "tiny", *models, *extra, *settings]) == 0
        (file,) = (tmp_path / str(steps)).glob("tiny-*/metrics.jsonl")
        records = [json.loads(line) for line in file.read_text().splitlines()]
        assert [("teacher_golden_gap_nats" in record) for record in records] == [bool(steps and n) for n in range(4)]
        runs.append(list(seen))
    assert len(runs[0]) == len(runs[1]) == 4
    for (batch, report), (other, other_report) in zip(*runs, strict=True):
        assert (report.loss, report.grad_norm) == (other_report.loss, other_report.grad_norm)
        for item, twin in zip(batch.scored, other.scored, strict=True):
            assert item.trajectory.completion_ids.tolist() == twin.trajectory.completion_ids.tolist()
            np.testing.assert_array_equal(item.scores[0].targets.hidden, twin.scores[0].targets.hidden)
