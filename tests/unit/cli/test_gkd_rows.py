"""`gkd rows`: training and test rows that share no prompt."""

import json
from pathlib import Path

import pytest

from gkd_dist.cli import main
from gkd_dist.config.load import load_eval_config
from gkd_dist.errors import DataError
from gkd_dist.evaluation.questions import read_questions


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_word_problems_are_divided_into_disjoint_files(tmp_path: Path) -> None:
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    command = ["rows", "small/arithmetic", "data.num_train=300", "data.num_held_out=50"]
    assert main([*command, "--output", str(train), "--held-out", str(test)]) == 0
    assert (len(read(train)), len(read(test))) == (300, 50)
    assert not {row["prompt"] for row in read(train)} & {row["prompt"] for row in read(test)}


def test_rows_with_a_prompt_that_is_held_out_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, train, test = (tmp_path / name for name in ("data.jsonl", "train.jsonl", "test.jsonl"))
    rows = [{"prompt": prompt, "completion": str(number)} for number, prompt in enumerate("abcbad")]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = ["rows", "small/multi30k", f"data.path={data}", "data.fields=null", "data.num_held_out=2"]
    assert main([*command, "--output", str(train), "--held-out", str(test)]) == 0
    assert [row["prompt"] for row in read(test)] == ["a", "b"]
    assert [row["prompt"] for row in read(train)] == ["c", "d"]
    assert "2 left out because their prompts are held out" in capsys.readouterr().out
    assert main([*command, "--output", str(train)]) == 0
    assert len(read(train)) == 6
    assert main([*command, "data.num_held_out=6", "--output", str(train), "--held-out", str(test)]) == 2
    assert "data.num_held_out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "held_out", "told"),
    [
        ("r.jsonl", "./r.jsonl", ["--output: r.jsonl is also --held-out, whose rows would be lost"]),
        ("data.jsonl", "r.jsonl", ["--output: data.jsonl is also data.path"]),
        ("r.jsonl", "data.jsonl", ["--held-out: data.jsonl is also data.path"]),
        ("folder", "r.jsonl", ["--output: folder is a folder; name a file"]),
        ("data.jsonl/r.jsonl", "folder", ["--output: ", "--held-out: folder is a folder; name a file"]),
    ],
)
def test_no_rows_are_lost_to_other_rows(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    output: str,
    held_out: str,
    told: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("data.jsonl").write_text("".join(f'{{"prompt": "{n}", "completion": "{n}"}}\n' for n in range(5)))
    before = Path("data.jsonl").read_bytes()
    command = ["rows", "small/multi30k", "data.path=data.jsonl", "data.fields=null", "data.num_held_out=2"]
    assert main([*command, "--output", output, "--held-out", held_out]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(told)
    assert all(line.startswith(f"error: {start}") for line, start in zip(lines, told, strict=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "folder"]
    assert Path("data.jsonl").read_bytes() == before


def test_questions_that_were_trained_on_are_refused(tmp_path: Path) -> None:
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text(json.dumps({"prompt": "2 + 2?", "completion": "#### 4"}))
    rows = [{"prompt": prompt, "completion": "#### 4"} for prompt in ("1 + 3?", "2 + 2?")]
    test.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    given = {"model": "m", "task": "gsm8k", "data": str(test)}
    options = ["fields={prompt: prompt, reference: completion}", f"not_in={train}"]
    with pytest.raises(DataError, match=r"test\.jsonl:2: this prompt is in .*train\.jsonl too"):
        read_questions(load_eval_config(None, given, options))
    assert len(read_questions(load_eval_config(None, given, [*options, "num_rows=1"]))) == 1
    options[-1] = f"not_in={tmp_path / 'none.jsonl'}"
    with pytest.raises(DataError, match="not_in: no such file"):
        read_questions(load_eval_config(None, given, options))


def test_an_experiment_refuses_them_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"prompt": "2 + 2?", "completion": "#### 4"}))
    out = tmp_path / "out"
    command = ["experiment", "figure9", f"train={train}", f"test={train}", "--output-dir", str(out)]
    assert main(command) == 2
    assert "this prompt is in" in capsys.readouterr().err
    assert not list(out.glob("*/runs/*"))
