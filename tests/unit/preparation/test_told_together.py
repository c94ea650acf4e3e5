"""Wrong values and missing files are told in one go, and no file is blamed for a wrong value."""

from pathlib import Path

import pytest

from gkd_dist.cli import main


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("learner.learning_rate=-1", "learner.learning_rate: must be"),
        ("data.num_held_out=-1", "data.num_held_out: must be"),
    ],
)
def test_a_wrong_value_does_not_hide_a_missing_file(
    wrong: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none.jsonl"
    assert main(["validate", "small/multi30k-sft-student", wrong, f"data.path={missing}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"error: {told}")
    assert lines[1].startswith(f"error: data.path: no such file: {missing}")


def test_a_key_that_is_wrong_itself_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "small/multi30k-sft-student", "data.path=3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: data.path: must be")
