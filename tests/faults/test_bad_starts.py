"""What cannot run is refused before anything starts: by the command itself, with exit code 2."""

import json
from pathlib import Path

import pytest

from tests import tiny
from tests.gkd_process import Runs


def refused(runs: Runs, *overrides: str) -> str:
    """What the command says; no run directory, no traceback."""
    said = runs.ends(2, *overrides).said
    assert "Traceback" not in said
    assert not runs.output.exists()
    return said


@pytest.mark.fault(39)
def test_every_problem_of_a_configuration_file_at_once(local: Runs) -> None:
    recipe = local.folder / "bad.yaml"
    recipe.write_text(
        "objective:\n  studnt_fraction: 0.5\nlearner:\n  batch_size: 0\nsupervision:\n  stall_timeout_s: -1\n"
        "sampling:\n  temperature: warm\nunknown: 1\n"
    )
    said = refused(local.of(str(recipe)))
    for key in ("objective.studnt_fraction", "learner.batch_size", "supervision.stall_timeout_s", "unknown"):
        assert f"error: {key}" in said
    assert "sampling.temperature" in said
    assert "student_fraction" in said.replace("studnt_fraction", "")


@pytest.mark.fault(40)
@pytest.mark.parametrize("rows", [0, 9])
def test_no_rows_or_none_that_fits(local: Runs, rows: int) -> None:
    """None that fits: the number of dropped ones is told with the reason."""
    path = local.folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": "w3 " * 300, "completion": "w4"}) + "\n" for _ in range(rows)))
    said = refused(local, f"data.path={path}")
    assert "rows.jsonl" in said if rows == 0 else "9 " in said and "max_model_len" in said


@pytest.mark.fault(43)
def test_tokenizers_that_differ(local: Runs, tmp_path: Path) -> None:
    other = tiny.save_causal(tmp_path / "other", seed=3)
    words = list(tiny.WORDS)
    words[17], words[18] = words[18], words[17]
    tiny.save_tokenizer(other, words)
    assert "id 17: 'w17' in the student, 'w18' in the teacher" in refused(local, f"teacher.model={other}")
