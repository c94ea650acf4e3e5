"""The command `gkd experiment`, as far as nothing is trained."""

from pathlib import Path

import pytest

from gkd_dist.cli import main
from gkd_dist.experimentation import _text_of
from gkd_dist.experiments.catalogue import experiment_names, load_experiment


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["experiment", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_list_names_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == experiment_names()


def test_a_dry_run_shows_commands_and_cost_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(capsys, "multi30k", "--dry-run", "data=/pairs", "seeds=[4]", "--output-dir", str(tmp_path))
    assert code == 0
    lines = out.splitlines()
    written = lines.index("written  after teacher, rows")
    assert lines[written + 1].startswith("  gkd generate ")
    assert "distil_2m_seqkd_seed4  after init_2m, written" in lines
    assert any("learner.max_steps=1000" in line and "seed=4" in line for line in lines)
    assert any(line.startswith("│ all") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_given_is_not_made(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "multi30k", "--dry-run", "data=/pairs", "teacher=/models/large", "seeds=[4]")
    assert code == 0
    lines = out.splitlines()
    assert lines[lines.index("teacher") + 1] == "  is there: /models/large"
    assert any("teacher.model=/models/large" in line for line in lines)


def test_the_experiment_as_it_was_asked_for_reads_back(tmp_path: Path) -> None:
    asked, _ = load_experiment("multi30k", "smoke", ["data=/pairs", "axes.size=[2m]", "teacher=/models/large"])
    (tmp_path / "asked.yaml").write_text(_text_of(asked))
    again, _ = load_experiment(str(tmp_path / "asked.yaml"))
    assert again == asked.model_copy(update={"scales": {}})


def test_a_fit_needs_nothing_but_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "figure2", "--output-dir", str(tmp_path))
    assert code == 0
    assert "reverse_kl" in out
    assert (tmp_path / "figure2" / "fit.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "--list"),
        (("figure12",), "no such experiment"),
        (("multi30k",), "data: required, but not given; add data=VALUE"),
        (("multi30k", "data=x", "distil.learner.batch_siz=3"), "batch_siz"),
        (("multi30k", "data=x", "--scale", "huge"), "multi30k has small, smoke"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], problem: str
) -> None:
    code, _, err = run(capsys, *arguments, "--output-dir", str(tmp_path / "out"))
    assert code == 2
    assert problem in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_an_experiment_that_is_worked_on_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from gkd_dist.runs.lock import RunLock

    folder = tmp_path / "multi30k-smoke"
    folder.mkdir()
    lock = RunLock(folder / "lock")
    try:
        code, _, err = run(capsys, "multi30k", "data=x", "--scale", "smoke", "--output-dir", str(tmp_path))
    finally:
        lock.close()
    assert code == 2
    assert "in use by another process; stop it, or choose another --output-dir" in err


def test_a_report_of_nothing_is_empty_and_not_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "multi30k", "data=x", "--scale", "smoke", "--report", "--output-dir", str(tmp_path))
    assert code == 0
    assert "not measured on-policy GKD above SFT" in " ".join(out.split())
