"""Runs that learn from fixed completions alone: SFT without a teacher, and supervised KD, which samples nothing."""

import json
from pathlib import Path

import pytest

from gkd_dist.cli import main
from tests.tiny_runs import arguments, losses, records


def sft(models: dict[str, Path], data: Path, output: Path, *extra: str) -> list[str]:
    """Arguments of supervised fine-tuning."""
    nobody = ("teacher=null", "objective.divergence=nll", "objective.student_fraction=0", "learner.learning_rate=3e-3")
    return arguments(models, data, output, *nobody, *extra)


def test_sft_needs_no_teacher_and_its_loss_falls(
    models: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *sft(models, data, tmp_path, "learner.max_steps=20")]) == 0
    found = losses(tmp_path)
    assert sum(found[-4:]) < sum(found[:4]) / 2
    assert {record["student_sequences"] for record in records(tmp_path)} == {0}
    summary = json.loads((tmp_path / "latest" / "summary.json").read_text())
    assert summary["after"]["reference/nll_nats"] < summary["before"]["reference/nll_nats"] / 2
    assert not [name for name in summary["after"] if "kl" in name]
    capsys.readouterr()
    final = tmp_path / "latest" / "final"
    assert main(["eval", *sft(models, data, tmp_path), "--model", str(final)]) == 0
    assert f"{summary['after']['reference/nll_nats']:.3f}" in capsys.readouterr().out


def test_sft_goes_on_where_it_was_stopped(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    whole = sft(models, data, tmp_path / "whole", "learner.max_steps=6")
    assert main(["run", *whole]) == 0
    keep = ("checkpoint.save_steps=3",)
    assert main(["run", *sft(models, data, tmp_path / "parts", "learner.max_steps=3", *keep)]) == 0
    (tmp_path / "parts" / "tiny-1" / "summary.json").unlink()  # as if it had been stopped before its end
    assert main(["run", *sft(models, data, tmp_path / "parts", "learner.max_steps=6", *keep)]) == 0
    by_step = {record["step"]: record["loss"] for record in records(tmp_path / "parts")}
    assert [by_step[step] for step in range(6)] == losses(tmp_path / "whole")


def test_supervised_distillation_samples_nothing(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    assert main(["run", *arguments(models, data, tmp_path, "objective.student_fraction=0")]) == 0
    assert {record["student_sequences"] for record in records(tmp_path)} == {0}


def test_what_a_teacher_wrote_is_counted_as_its_own(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    assert main(["run", *sft(models, data, tmp_path, "data.written_by=teacher")]) == 0
    assert main(["explain", "latest", "0", "--output-dir", str(tmp_path)]) == 0
    steps = [json.loads(line) for line in (tmp_path / "latest" / "ledger.jsonl").read_text().splitlines()]
    sources = {sequence["source"] for step in steps for sequence in step.get("sequences", ())}
    assert sources == {"teacher"}


def test_a_student_learns_from_what_a_teacher_wrote(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """SeqKD, as docs/paper.md has it: rows, generate, run."""
    plain = ["tiny", *arguments(models, data, tmp_path)[1:]]
    prompts, written = tmp_path / "prompts.jsonl", tmp_path / "teacher-written.jsonl"
    assert main(["rows", *plain, "data.prompt_template=w3 {prompt}", "--output", str(prompts)]) == 0
    generated = ["generate", str(models["teacher"]), "--prompts", str(prompts), "--output", str(written)]
    assert main([*generated, "decoding.max_new_tokens=8"]) == 0
    # A teacher with random weights hardly ever ends, and what has no end is no target: take it as if it had one.
    whole = [json.loads(line) | {"truncated": [False]} for line in written.read_text().splitlines()]
    written.write_text("".join(json.dumps(row) + "\n" for row in whole))
    overrides = [each for each in plain[1:] if not each.startswith(("teacher.", "data.path"))]
    assert main(["run", "tiny+methods/seqkd", *overrides, f"data.path={written}", "learner.max_steps=20"]) == 0
    found = losses(tmp_path)
    assert sum(found[-4:]) < sum(found[:4])
    texts = [json.loads(line) for line in written.read_text().splitlines()]
    samples = [json.loads(line) for line in (tmp_path / "latest" / "samples.jsonl").read_text().splitlines()]
    assert [(each["prompt"], each["reference"]) for each in samples] == [
        (text["prompt"], text["completions"][0]) for text in texts[: len(samples)]
    ]
