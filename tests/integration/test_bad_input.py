"""A user's mistakes, through the command: exit code 2, one clear line each, no traceback, nothing started."""

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gkd_dist.cli import main
from tests import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.save_causal(folder / "student")
    tiny.save_causal(folder / "teacher", seed=2)
    other = tiny.save_causal(folder / "other", seed=3)
    swapped = list(tiny.WORDS)
    swapped[17], swapped[18] = swapped[18], swapped[17]
    tiny.save_tokenizer(other, swapped)
    return folder


@pytest.fixture
def fails(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Runs `gkd run tiny` with these overrides; returns what it said on stderr."""
    monkeypatch.setitem(sys.modules, "gkd_dist.distributed", None)  # importing it would fail: nothing may start
    monkeypatch.setitem(sys.modules, "gkd_dist.local", None)

    def run(*overrides: str) -> str:
        pair = [f"student.model={models / 'student'}", f"teacher.model={models / 'teacher'}"]
        code = main(["run", "tiny", *pair, f"output_dir={tmp_path / 'runs'}", *overrides])
        said = capsys.readouterr().err
        assert code == 2, said
        assert "Traceback" not in said
        assert all(line.startswith("error: ") for line in said.splitlines())
        assert not (tmp_path / "runs").exists()
        return said

    return run


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


PAIR = {"prompt": "w3 w4", "completion": "w5"}


def test_missing_file(fails: Callable[..., str]) -> None:
    said = fails("data.path=no/such/file.jsonl")
    assert "no/such/file.jsonl" in said
    assert "no such file" in said.lower()


def test_empty_data_set(fails: Callable[..., str], tmp_path: Path) -> None:
    assert "empty.jsonl" in fails(f"data.path={write(tmp_path / 'empty.jsonl')}")


def test_unknown_column(fails: Callable[..., str], tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"question": "w3", "answer": "w4"})
    said = fails(f"data.path={path}", "data.fields.prompt=qestion", "data.fields.completion=answer")
    assert "qestion" in said
    assert "question" in said


def test_unknown_key_names_the_nearest(fails: Callable[..., str]) -> None:
    said = fails("objective.studnt_fraction=0.5")
    assert "objective.studnt_fraction" in said
    assert "student_fraction" in said.replace("studnt_fraction", "")


def test_lambda_outside_its_range(fails: Callable[..., str]) -> None:
    said = fails("objective.student_fraction=1.5")
    assert "objective.student_fraction" in said
    assert "1.5" in said


def test_all_configuration_problems_at_once(fails: Callable[..., str]) -> None:
    said = fails("objective.lmbda=-1", "learner.batch_size=0", "sampler.engin=vllm", "teacher.temperature=0")
    assert len(said.splitlines()) == 4


def test_malformed_line_is_named_by_file_and_number(fails: Callable[..., str], tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", PAIR, PAIR, '{"prompt": "w3", \n')
    assert "rows.jsonl:3" in fails(f"data.path={path}")


def test_truncated_gzip(fails: Callable[..., str], tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(json.dumps(PAIR).encode() + b"\n" for _ in range(500)))
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    assert "rows.jsonl.gz" in fails(f"data.path={path}")


def test_prompts_longer_than_the_context(fails: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"prompt": "w3 " * 300, "completion": "w4"}] * 10
    said = fails(f"data.path={write(tmp_path / 'rows.jsonl', *rows)}")
    assert "300" in said
    assert "max_model_len" in said


def test_fixed_pairs_wanted_but_the_data_has_none(fails: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"prompt": f"w{number}"} for number in range(3, 30)]
    said = fails(f"data.path={write(tmp_path / 'rows.jsonl', *rows)}", "objective.student_fraction=0.5")
    assert "student_fraction" in said


def test_tokenizers_that_differ_are_named_by_their_first_ids(fails: Callable[..., str], models: Path) -> None:
    said = fails(f"teacher.model={models / 'other'}")
    assert "id 17: 'w17' in the student, 'w18' in the teacher" in said


def test_a_model_that_is_not_there(fails: Callable[..., str]) -> None:
    assert "no/such/model" in fails("teacher.model=./no/such/model")


def test_an_unknown_recipe_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "quikstart"]) == 2
    assert "quickstart" in capsys.readouterr().err


def test_problems_of_data_and_models_come_together(fails: Callable[..., str]) -> None:
    said = fails("data.path=no/such/file.jsonl", "teacher.model=./no/such/model")
    assert "no/such/file.jsonl" in said
    assert "no/such/model" in said
