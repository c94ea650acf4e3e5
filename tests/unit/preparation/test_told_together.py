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


@pytest.mark.parametrize(("num_held_out", "is_refused"), [(4, True), (3, True), (2, False)])
def test_a_held_out_split_that_leaves_nothing_is_refused_without_a_tokenizer(
    num_held_out: int, is_refused: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four rows one has no prompt; the student is not made yet."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"en": "{text}", "de": "b"}}\n' for text in ("a", "", "c", "d")))
    command = ["validate", "small/multi30k-sft-student", f"data.path={file}", f"data.num_held_out={num_held_out}"]
    code = main([*command, "data.num_train=null", f"output_dir={tmp_path}"])
    err = capsys.readouterr().err
    assert code == (2 if is_refused else 0), err
    if is_refused:
        assert err.splitlines() == [
            f"error: data.num_held_out: {num_held_out} rows are to be held out, and {file} has 3 that can be used: "
            "nothing is left to train on; lower it, or give more rows"
        ]


def test_a_wrong_divergence_over_a_recipe_without_a_teacher_is_one_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "small/multi30k-sft-student", "--config-only", "objective.divergence=foo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: objective.divergence: must be one of")


def test_a_name_that_is_missing_between_pluses_is_told_without_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "small/multi30k+", "--config-only"]) == 2
    assert capsys.readouterr().err == (
        "error: recipe small/multi30k+: between and beside `+` stand names, and one is missing\n"
    )
