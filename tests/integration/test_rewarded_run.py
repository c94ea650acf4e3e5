"""RL + GKD end to end: every reward in one process, then on Ray; and what a user may get wrong. Nothing is a fake."""

import json
import sys
from pathlib import Path

import pytest

from gkd_dist.cli import main
from tests import tiny
from tests.classifier import save_classifier
from tests.tiny_runs import arguments, records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Student, teacher, classifier and data."""
    folder = tmp_path_factory.mktemp("rewarded")
    tiny.save_causal(folder / "student", seed=1)
    tiny.save_causal(folder / "teacher", seed=2, num_layers=3)
    save_classifier(folder / "classifier")
    rows = [
        {"prompt": " ".join(f"w{3 + (row * 7 + word) % 120}" for word in range(5)), "completion": f"w7 {row} w9"}
        for row in range(40)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run_rewards.py").write_text(
        "def brevity(prompts, completions, references):\n"
        "    assert all(reference.startswith('w7') for reference in references)\n"
        "    return [-len(text.split()) for text in completions]\n\n\n"
        "async def slow(completions, **kwargs):\n"
        "    return [0.5 for _ in completions]\n\n\n"
        "def words(completions):\n"
        "    return completions\n\n\n"
        "calls = []\n\n\n"
        "def later(completions):\n"
        "    calls.append(completions)\n"
        "    return completions if len(calls) > 1 else [0.0 for _ in completions]\n\n\n"
        "def raises(completions, **kwargs):\n"
        "    return kwargs['gold']\n\n\n"
        "def wants(completions, solution):\n"
        "    return []\n"
    )
    return folder


@pytest.fixture(autouse=True)
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(folder)


def rewarded(folder: Path, output: Path, *extra: str) -> list[str]:
    models = {role: folder / role for role in ("student", "teacher")}
    return arguments(
        models, folder / "pairs.jsonl", output, "objective.alpha=0.5", "objective.student_fraction=1", *extra
    )


GROUPS = ("sampling.num_generations=2", "objective.baseline=leave_one_out")
REWARDS = {
    "answer": ("reward={type: answer, match: exact}",),
    "entailment": ("reward={type: entailment, model: classifier}", *GROUPS),
    "python": ("reward={type: python, function: 'run_rewards:brevity'}", *GROUPS),
    "async": ("reward={type: python, function: 'run_rewards:slow'}",),
}
RANGES = {"answer": (0, 1), "entailment": (0, 1), "python": (-16, -1), "async": (0.5, 0.5)}


@pytest.mark.parametrize("name", REWARDS)
def test_a_rewarded_run_judges_trains_and_evaluates(name: str, folder: Path, tmp_path: Path) -> None:
    assert main(["run", *rewarded(folder, tmp_path, *REWARDS[name])]) == 0
    least, most = RANGES[name]
    found = records(tmp_path)
    assert len(found) == 4
    for record in found:
        assert least <= record["reward_mean"] <= most
        assert record["advantage_std"] >= 0
        assert record["judge_s"] > 0
    summary = json.loads((tmp_path / "latest" / "summary.json").read_text())
    assert least <= summary["before"]["on_policy/reward_mean"] <= most
    assert least <= summary["after"]["on_policy/reward_mean"] <= most


def test_rewards_change_the_training_and_a_seed_repeats_it(folder: Path, tmp_path: Path) -> None:
    def losses(name: str, *extra: str) -> list[float]:
        assert main(["run", *rewarded(folder, tmp_path / name, *extra, "evaluation.enabled=false")]) == 0
        return [record["loss"] for record in records(tmp_path / name)]

    first, second = (losses(name, *REWARDS["python"]) for name in ("first", "second"))
    assert first == second
    plain = losses("plain", "objective.alpha=1", "sampling.num_generations=2")
    assert plain[0] == first[0]  # the loss is the divergence, whatever alpha
    assert plain[1:] != first[1:]


@pytest.mark.ray
@pytest.mark.parametrize("name", ["entailment", "python"])
def test_ray_gives_the_rewards_of_one_process(name: str, folder: Path, tmp_path: Path) -> None:
    """The classifier has an actor of its own; to 1e-5."""
    for mode in ("local", "ray"):
        extra = (f"cluster.mode={mode}", "learner.max_steps=2", "evaluation.enabled=false")
        assert main(["run", *rewarded(folder, tmp_path / mode, *REWARDS[name], *extra)]) == 0
    for key in ("loss", "reward_mean", "advantage_std"):
        local, ray = ([record[key] for record in records(tmp_path / mode)] for mode in ("local", "ray"))
        assert local == pytest.approx(ray, rel=1e-5)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["reward={type: python, function: 'no_rewards:f'}"], "reward.function: no module named no_rewards"),
        (["reward={type: python, function: 'run_rewards:brevty'}"], "brevty in run_rewards"),
        (["reward={type: python, function: 'run_rewards:wants'}"], "requires solution"),
        (["reward={type: python, function: 'run_rewards:words'}"], "for completion 0; every reward must be a finite"),
        (["reward={type: python, function: 'run_rewards:raises'}"], "run_rewards:raises failed: KeyError: 'gold'"),
        (["reward={type: entailment, model: teacher}"], "reward.model: "),
        (["reward={type: entailment, model: no/such/folder}"], "no/such/folder"),
        (["reward.type=answer", "data.path=prompts.jsonl"], "reward.type: answer compares with reference completions"),
        (["reward.type=answer", "data.path=words.jsonl"], "reward.match: number needs one number"),
    ],
)
def test_what_cannot_work_is_refused_before_an_engine_starts(
    extra: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "prompts.jsonl").write_text('{"prompt": "w3"}\n{"prompt": "w4"}\n')
    rows = [{"prompt": f"w{word}", "completion": "w 5" if word > 4 else "five"} for word in range(3, 20)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setitem(sys.modules, "gkd_dist.local", None)  # importing it would fail: nothing may start
    assert main(["run", *rewarded(folder, tmp_path, *extra)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "tiny-1").exists()


def test_a_function_that_returns_texts_later_ends_the_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ("reward={type: python, function: 'run_rewards:later'}",)
    assert main(["run", *rewarded(folder, tmp_path, *extra)]) == 70
    said = capsys.readouterr().err
    assert "the reward function run_rewards:later returned 'w" in said
    assert "every reward must be a finite number" in said
    assert "Traceback" not in said
