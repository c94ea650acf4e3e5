"""Whole runs that share a score cache: fixed pairs are scored once, whatever the epoch, the run and the objective."""

import json
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from gkd_dist.cli import main
from gkd_dist.teachers.hf_teacher import HfTeacher
from gkd_dist.types import Source
from tests import tiny


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[Source]]:
    """The source of everything that the teacher's engine scores, call by call, but for the golden sequences."""
    seen: list[list[Source]] = []
    score = HfTeacher._score

    def watched(teacher: HfTeacher, transport: object, trajectories: list) -> list:
        seen.append([each.source for each in trajectories if each.sample_id.run != "golden"])
        return score(teacher, transport, trajectories)

    monkeypatch.setattr(HfTeacher, "_score", watched)
    return seen


def cache_results(output: Path) -> Counter[str]:
    """Fixed pairs by whether the teacher had scored them before, over all steps."""
    lines = (output / "latest" / "metrics.jsonl").read_text().splitlines()
    found: Counter[str] = Counter()
    for record in map(json.loads, lines):
        found += Counter({each: record.get(f"score_cache_{each}", 0) for each in ("hit", "miss")})
    return found


def losses(output: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / "latest" / "metrics.jsonl").read_text().splitlines()]


def test_a_second_epoch_and_a_sweep_over_beta_score_no_pair_again(
    asked: list[list[Source]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 rows to train on and 2 of each 4 sequences fixed: 8 steps read 16 pairs, so some of them twice."""
    monkeypatch.setenv("GKD_CACHE_DIR", str(tmp_path / "cache"))
    tiny.save_causal(tmp_path / "student", seed=1)
    tiny.save_causal(tmp_path / "teacher", seed=2, num_layers=3)
    rows = [{"prompt": f"w{3 + row} w{40 + row} w9", "completion": f"w7 w{50 + row} w9"} for row in range(16)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(name: str, *overrides: str) -> int:
        """How many fixed pairs the teacher was asked about."""
        asked.clear()
        models = (f"student.model={tmp_path / 'student'}", f"teacher.model={tmp_path / 'teacher'}")
        shared = (*models, f"data.path={tmp_path / 'pairs.jsonl'}", "data.num_train=12", "learner.max_steps=8")
        shared += ("objective.divergence=jsd",)
        assert main(["run", "tiny", *shared, f"output_dir={tmp_path / name}", *overrides]) == 0
        sources = list(chain.from_iterable(asked))
        assert sources.count(Source.STUDENT) > 0
        return len(sources) - sources.count(Source.STUDENT)

    num_pairs = len(rows)  # those to train on, and the held-out references
    assert 0 < run("first", "objective.beta=0.25") <= num_pairs
    assert cache_results(tmp_path / "first")["miss"] > 0
    assert run("again", "objective.beta=0.25") == 0
    assert cache_results(tmp_path / "again").keys() == {"hit"}
    assert run("swept", "objective.beta=0.75") == 0
    assert run("colder", "objective.beta=0.25", "teacher.temperature=0.5") == 0
    assert run("other", "teacher.transport=full") > 0
    assert run("off", "objective.beta=0.25", "teacher.score_cache_bytes=0") > num_pairs
    assert losses(tmp_path / "again") == losses(tmp_path / "first")
    assert losses(tmp_path / "off") == pytest.approx(losses(tmp_path / "first"), rel=1e-5)
    assert losses(tmp_path / "swept") != losses(tmp_path / "first")


def test_a_run_repeats_bit_for_bit_whatever_the_cache_holds(
    asked: list[list[Source]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is scored together turns the last digits, so fixed pairs are scored alone, and what is written without
    them."""
    monkeypatch.setenv("GKD_CACHE_DIR", str(tmp_path / "cache"))
    tiny.save_causal(tmp_path / "student", seed=1)
    tiny.save_causal(tmp_path / "teacher", seed=2, num_layers=3)
    texts = [" ".join(f"w{4 + (row * 7 + word) % 90}" for word in range(2 + row * 7 % 13)) for row in range(48)]
    rows = [{"prompt": f"w{3 + row} w9", "completion": text} for row, text in enumerate(texts)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = [f"student.model={tmp_path / 'student'}", f"teacher.model={tmp_path / 'teacher'}"]
    data = [f"data.path={tmp_path / 'pairs.jsonl'}", "data.num_train=40", "evaluation.enabled=false"]

    def weights(name: str) -> bytes:
        learner = "learner={max_steps: 8, batch_size: 8}"
        assert main(["run", "tiny", *models, *data, learner, f"output_dir={tmp_path / name}"]) == 0
        return (tmp_path / name / "latest" / "final" / "model.safetensors").read_bytes()

    cold = weights("cold")
    assert weights("warm") == cold
    kept = sorted(path for path in (tmp_path / "cache" / "scores").rglob("*") if path.is_file())
    for path in kept[::2]:
        path.unlink()
    assert weights("half warm") == cold
    results = cache_results(tmp_path / "half warm")
    assert results["hit"] and results["miss"]
    assert all(len(call) <= 1 or set(call) == {Source.STUDENT} for call in asked)
    assert any(len(call) > 1 for call in asked)
