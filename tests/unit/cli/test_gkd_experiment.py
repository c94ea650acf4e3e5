"""The command `gkd experiment`, as far as nothing is trained."""

import gzip
import json
import re
from pathlib import Path

import pytest

from gkd_dist.cli import main
from gkd_dist.config.yaml_text import format_yaml
from gkd_dist.experimentation import _text_of
from gkd_dist.experiments.catalogue import experiment_names, load_experiment
from gkd_dist.experiments.spec import Experiment
from tests.workshop import MODEL, Workshop, carry_out


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["experiment", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_list_names_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--list")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert list(lines) == experiment_names()
    assert lines["multi30k"].endswith("[small, smoke]")
    assert lines["figure7"].endswith("[small, paper]")
    assert not lines["figure2"].endswith("]")


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
        (("multi30k", "data=x", "steps=200"), "warmup_steps is warmup=, decay_steps is decay="),
        (("multi30k", "data=x", "seeds=0"), "error: seeds: must be a list of whole numbers, such as [0, 1], got 0"),
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
    for name in ("train.jsonl.gz", "test_2016_flickr.jsonl.gz"):
        with gzip.open(tmp_path / name, "wt") as file:
            file.write('{"en": "a", "de": "b"}\n')
    try:
        code, _, err = run(capsys, "multi30k", f"data={tmp_path}", "--scale", "smoke", "--output-dir", str(tmp_path))
    finally:
        lock.close()
    assert code == 2
    assert "in use by another process; stop it, or choose another --output-dir" in err


def test_a_report_of_nothing_is_empty_and_not_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "multi30k", "data=x", "--scale", "smoke", "--report", "--output-dir", str(tmp_path))
    assert code == 0
    assert "not measured on-policy GKD above SFT" in " ".join(out.split())


def test_a_stage_that_only_measures_itself_is_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """No `evaluate`: what there is stands in the summaries of the runs."""
    tree = {
        "title": "own figures",
        "axes": {"method": ["good", "bad"]},
        "seeds": [0, 1, 2],
        "stages": {
            "distil": {"over": ["method", "seed"], "recipe": "tiny", "overrides": {**MODEL, "evaluation.enabled": True}}
        },
        "claims": [
            {
                "text": "bad further away",
                "metric": "on_policy/objective_nats",
                "where": {"evaluation": "held-out"},
                "above": {"method": "bad"},
                "below": {"method": "good"},
            }
        ],
    }
    (tmp_path / "own.yaml").write_text(format_yaml(tree))
    schedule = carry_out(tmp_path / "own", Workshop(), Experiment.model_validate(tree))
    for number, standing in enumerate(schedule.standings.values()):
        nats = {"bad": 2.0, "good": 1.0}[standing.run.labels["method"]] + 0.01 * number
        summary = {"after": {"on_policy/objective_nats": nats}}
        (standing.run.folder / "latest" / "summary.json").write_text(json.dumps(summary))
    code, out, err = run(capsys, str(tmp_path / "own.yaml"), "--report", "--output-dir", str(tmp_path))
    assert (code, err) == (0, "")
    assert "holds bad further away: on_policy/objective_nats 2.0" in " ".join(out.split())


def test_all_that_is_wrong_is_told_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "multi30k", "data=none", "steps=abc", "teacher=/nofolder", "axes.methods=[x]")
    assert code == 2
    lines = err.splitlines()
    assert lines[0] == "error: steps: must be a number, got 'abc'"
    assert lines[1].startswith("error: axes.methods: not known here")
    assert lines[2] == "error: teacher: no such file or folder: /nofolder"
    files = [line.partition(": no such file: ")[2].partition(";")[0] for line in lines[3:]]
    assert sorted(files) == ["none/test_2016_flickr.jsonl.gz", "none/train.jsonl.gz"]
    code, _, err = run(capsys, "multi30k", "data=none", "distil.learner.learning_rat=3", "axes.methods=[x]")
    assert [line.partition(": ")[2].partition(": ")[0] for line in err.splitlines()] == ["axes.methods", "distil"]


def test_columns_that_are_not_there_are_told_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("train.jsonl.gz", "test_2016_flickr.jsonl.gz"):
        with gzip.open(tmp_path / name, "wt") as file:
            file.write('{"english": "a", "german": "b"}\n')
    command = ("multi30k", f"data={tmp_path}", "--output-dir", str(tmp_path / "out"))
    code, _, err = run(capsys, *command)
    assert code == 2
    assert "train.jsonl.gz:1: no column" in err and "test_2016_flickr.jsonl.gz:1: no column" in err
    code, out, _ = run(capsys, *command, "--dry-run")
    assert code == 0
    assert sum(line.startswith("a start would be refused: ") for line in out.splitlines()) == 2
    assert not (tmp_path / "out").exists()


def test_the_documented_short_run_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "paper-figures.md").read_text()
    (settings,) = re.findall(r"`(steps=200[^`]*)`", page)
    code, out, _ = run(capsys, "multi30k", "--dry-run", "data=/pairs", *settings.split())
    assert code == 0
    assert "learner.max_steps=200" in out


def word_problems(folder: Path) -> tuple[str, ...]:
    """A command line of a figure whose four questions were all trained on, where one more was."""
    lines = [json.dumps({"prompt": f"{n} + 1?", "completion": f"{n + 1}"}) + "\n" for n in range(5)]
    (folder / "train.jsonl").write_text("".join(lines))
    (folder / "test.jsonl").write_text("".join(lines[:4]))
    return ("figure10", f"train={folder}/train.jsonl", f"test={folder}/test.jsonl", "--output-dir", str(folder / "out"))


def test_a_dry_run_tells_of_questions_that_were_trained_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = word_problems(tmp_path)
    code, _, err = run(capsys, *command)
    assert code == 2
    refused = [line.removeprefix("error: ") for line in err.splitlines()]
    assert len(refused) == 4
    assert all("which was trained on" in line for line in refused[:3])
    assert refused[3] == "1 more rows are refused too, 4 in all"
    code, out, _ = run(capsys, *command, "--dry-run")
    assert code == 0
    start = "a start would be refused: "
    assert [line.removeprefix(start) for line in out.splitlines() if line.startswith(start)] == refused


def test_a_dry_run_tells_of_files_with_fewer_rows_than_are_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, number in (("train.jsonl.gz", 12), ("test_2016_flickr.jsonl.gz", 3)):
        with gzip.open(tmp_path / name, "wt") as file:
            file.write('{"en": "a", "de": "b"}\n' * number)
    command = ("multi30k", "--dry-run", f"data={tmp_path}", "distil.data.num_held_out=2", "teacher.data.num_held_out=2")
    command = (*command, "init.data.num_held_out=2")

    def notes(*settings: str) -> list[str]:
        code, out, _ = run(capsys, *command, *settings)
        assert code == 0
        return [line.removeprefix("note: ") for line in out.splitlines() if line.startswith("note: ")]

    assert notes("num_train=10", "num_test=3") == []
    assert notes("num_train=11", "num_test=4") == [
        f"{tmp_path}/train.jsonl.gz has 12 rows, fewer than are asked for: data.num_train=11, and 2 held out",
        f"{tmp_path}/test_2016_flickr.jsonl.gz has 3 rows, fewer than are asked for: num_rows=4",
    ]


def test_a_report_of_another_selection_says_which_runs_it_leaves_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ("multi30k", "data=x", "--scale", "smoke", "--report", "--output-dir", str(tmp_path))
    for name in ("distil_2m_sft_seed0", "init_500k"):
        (tmp_path / "multi30k-smoke" / "runs" / name).mkdir(parents=True)
    (tmp_path / "multi30k-smoke" / "runs" / "distil_2m_sft_seed0" / "run.json").write_text("")
    code, out, err = run(capsys, *command, "axes.size=[500k]")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("left out, for they are not selected: 1 runs of ")
    assert out.splitlines()[-1].endswith(": distil_2m_sft_seed0")
