"""`gkd eval` with a reward: what the model wrote is judged as in a run, and counts by row."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.build.evaluation import EvalEngines
from gkd_dist.cli import main
from gkd_dist.evaluation.predictions import Prediction, Sample, write_predictions
from gkd_dist.preparation import eval_reward
from tests.classifier import save_classifier
from tests.tiny import save_causal, save_t5

MODULE = """
SEEN = []

def share(prompts, completions, references):
    SEEN.append((prompts, completions, references))
    return [len(set(text.split()) & {"w4"}) + 0.5 * len(text.split()) for text in completions]

def broken(completions, **kwargs):
    return [float("nan")] * len(completions)

TIMES = []

def later_broken(completions, **kwargs):
    TIMES.append(len(completions))
    if len(TIMES) > 1 and ERROR is not None:
        raise ERROR
    return [3.0] * len(completions)

async def slow(completions, **kwargs):
    import asyncio
    if len(completions) > 2:
        await asyncio.Event().wait()
    return [1.0] * len(completions)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    save_causal(path / "student", seed=1)
    save_t5(path / "t5", seed=3)
    save_classifier(path / "classifier")
    return path


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judges_of_this_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [{"prompt": f"w{n} w{n + 1} w5", "completion": f"w{n} w4"} for n in range(7, 12)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code = main(["eval", *map(str, arguments), "num_resamples=100", "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert main(["eval", *map(str, arguments)]) == 2
    return capsys.readouterr().err.splitlines()


def test_samples_of_a_row_are_judged_and_kept_together(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reward = ["reward.type=python", "reward.function=judges_of_this_test:share"]
    result = evaluate(
        capsys, models / "student", "--task", "translation", "--data", data, *reward, "template='say {prompt}'",
        "decoding.max_new_tokens=4", "decoding.temperature=1", "decoding.num_samples=3", f"output={tmp_path / 'out'}",
    )  # fmt: skip
    file = tmp_path / "out" / "predictions.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    expected = [[("w4" in s["text"].split()) + 0.5 * len(s["text"].split()) for s in row["samples"]] for row in rows]
    assert [row["rewards"] for row in rows] == expected
    figure = result["figures"]["reward_mean"]
    assert figure["value"] == pytest.approx(sum(map(sum, expected)) / 15)
    assert figure["num_segments"] == 5 and figure["low"] < figure["high"]  # rows, not samples
    assert result["signatures"]["reward"] == "python (judges_of_this_test:share)"
    import judges_of_this_test  # type: ignore[import-not-found]

    prompts, completions, references = judges_of_this_test.SEEN[-1]
    judges_of_this_test.SEEN.clear()
    assert prompts[:4] == ["say w7 w8 w5"] * 3 + ["say w8 w9 w5"]
    assert references[2:4] == ["w7 w4", "w8 w4"]
    assert completions == [sample["text"] for row in rows for sample in row["samples"]]

    again = evaluate(capsys, "--predictions", file)  # without a model, or the function
    assert again["figures"] == result["figures"]
    exact = evaluate(capsys, "--predictions", file, "reward.type=answer", "reward.match=exact")
    assert exact["figures"]["reward_mean"]["value"] == 0
    assert exact["figures"]["bleu"] == result["figures"]["bleu"]


def test_a_classifier_judges_an_encoder_decoder(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(
        capsys, models / "t5", "--task", "translation", "--data", data, "reward.type=entailment",
        f"reward.model={models / 'classifier'}", "decoding.max_new_tokens=4", f"output={tmp_path / 'out'}",
    )  # fmt: skip
    assert 0 < result["figures"]["reward_mean"]["low"] < result["figures"]["reward_mean"]["high"] < 1
    assert result["settings"]["reward"]["type"] == "entailment"


def test_what_a_reward_lacks_is_told_before_a_model_loads(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gkd_dist.evaluation.predicting.predict", None)  # not reached
    base = [models / "student", "--task", "translation", "--data", data]
    assert "reward.function: no module named nowhere" in refused(
        capsys, *base, "reward.type=python", "reward.function=nowhere:f"
    )[-1]  # fmt: skip
    assert "returned nan for completion 0" in refused(
        capsys, *base, "reward.type=python", "reward.function=judges_of_this_test:broken"
    )[-1]  # fmt: skip
    model = f"reward.model={models / 'student'}"
    assert "exactly one must be `entailment`" in refused(capsys, *base, "reward.type=entailment", model)[-1]
    assert "reward.type=python needs reward.function" in refused(capsys, *base, "reward.type=python")[-1]
    lines = refused(capsys, "./none", *base[1:], "reward.type=entailment", "reward.model=./no")
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == ["model", "reward.model"]
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "w7"}\n')
    only_prompts = [models / "student", "--task", "generation", "--data", tmp_path / "prompts.jsonl"]
    assert "1 rows of" in refused(capsys, *only_prompts, "reward.type=answer")[-1]
    assert "fields.reference" in refused(capsys, *only_prompts, "reward.type=answer")[-1]
    told = refused(capsys, models / "student", "--task", "mmlu", "--data", data, "reward.type=answer", "shots.num=0")
    assert "task=mmlu writes no text to judge" in told[0]


@pytest.mark.parametrize("error", [RuntimeError("no key"), SystemExit(5), KeyboardInterrupt()])
def test_what_was_written_outlives_a_reward_that_fails(
    models: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    """The trial call before the model loads is the first one. What is kept is judged, or the same command goes on."""
    import judges_of_this_test

    judges_of_this_test.TIMES.clear()
    judges_of_this_test.ERROR = error
    folder, reward = tmp_path / "out", ["reward.type=python", "reward.function=judges_of_this_test:later_broken"]
    base = [models / "student", "--task", "translation", "--data", data, "decoding.max_new_tokens=4"]
    assert main(["eval", *map(str, base), *reward, f"output={folder}"]) == (
        130 if isinstance(error, KeyboardInterrupt) else 70
    )
    err = capsys.readouterr()
    told = next(line for line in (err.out + err.err).splitlines() if "judge it with: " in line)
    failed = f"failed: {type(error).__name__}: {error}"
    assert failed in err.err or isinstance(error, KeyboardInterrupt)
    words = shlex.split(told.partition("judge it with: ")[2])
    assert words == ["gkd", "eval", f"--predictions={folder}/predictions.jsonl", f"output={folder}", *reward]
    assert [path.name for path in folder.iterdir()] == ["predictions.jsonl"]
    judges_of_this_test.ERROR = None
    before = (folder / "predictions.jsonl").read_bytes()
    assert main(["eval", *map(str, base), *reward, f"output={folder}", "decoding.max_new_tokens=3"]) == 2
    assert "holds what a model wrote, without figures" in capsys.readouterr().err
    assert (folder / "predictions.jsonl").read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr(EvalEngines, "make_writer", None)  # nothing is left to be written
        again = evaluate(capsys, *([*base, *words[3:]] if isinstance(error, SystemExit) else words[2:]))
    assert again["figures"]["reward_mean"]["value"] == 3
    assert {path.name for path in folder.iterdir()} == {"predictions.jsonl", "results.json"}
    assert not (tmp_path / "out.draft").exists()
    whole = evaluate(capsys, *base, f"output={tmp_path / 'whole'}")
    assert again["figures"]["bleu"] == whole["figures"]["bleu"]


def test_new_rewards_are_those_of_the_next_reading(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = Sample("w4 w4", 2, False)
    rows = [Prediction("generation", row, "p", ("w4",), samples=(sample,), rewards=(9.0,)) for row in range(3)]
    file = tmp_path / "old" / "predictions.jsonl"
    write_predictions(rows, file)
    reward = ["reward.type=python", "reward.function=judges_of_this_test:share"]

    def mean(*arguments: object) -> float:
        return float(evaluate(capsys, "--predictions", *arguments)["figures"]["reward_mean"]["value"])

    before = file.read_bytes()
    assert mean(file) == 9
    assert mean(file, *reward) == 2
    assert mean(file, *reward, f"output={tmp_path / 'new'}") == 2
    assert mean(tmp_path / "new" / "predictions.jsonl") == 2
    assert file.read_bytes() == before, "the rewards of the former evaluation stay with it"
    assert mean(file, *reward, f"output={file.parent}") == 2
    assert mean(file) == 2

    write_predictions(rows, file)
    told = refused(capsys, "--predictions", file, *reward, f"output={tmp_path / 'new'}")
    assert "holds other predictions already; choose a new folder" in told[0]


def test_a_function_gets_few_answers_at_a_time_and_its_deadline_names_no_key_of_a_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import judges_of_this_test

    sample = Sample("w4", 1, False)
    rows = [Prediction("generation", row, f"{row}", ("w4",), samples=(sample,)) for row in range(70)]
    write_predictions(rows, tmp_path / "p.jsonl")
    judges_of_this_test.SEEN.clear()
    evaluate(
        capsys, "--predictions", tmp_path / "p.jsonl", "reward.type=python", "reward.function=judges_of_this_test:share"
    )
    judged = [len(completions) for _, completions, _ in judges_of_this_test.SEEN]
    assert judged == [2, 32, 32, 6], "a trial, and all"

    monkeypatch.setattr(eval_reward, "TIMEOUT_S", 0.4)
    slow = ["reward.type=python", "reward.function=judges_of_this_test:slow"]
    assert main(["eval", "--predictions", str(tmp_path / "p.jsonl"), *slow]) == 70
    (told,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert told.endswith("did not return within 0 s for 32 completions; make it faster")


def test_generate_measures_nothing(models: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = f"teacher={models / 'student'}"
    assert main(["generate", str(models / "student"), "--prompts", str(data), teacher]) == 2
    assert "gkd generate measures nothing" in capsys.readouterr().err


def test_generate_judges_nothing(models: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(models / "student"), "--prompts", str(data), "reward.type=answer"]) == 2
    assert "gkd generate judges nothing" in capsys.readouterr().err


def test_options_are_no_text_to_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Prediction("mmlu", 0, "p", (" A",), "law", (), (" A", " B"), (-1.0, -2.0))]
    write_predictions(rows, tmp_path / "p.jsonl")
    assert "task=mmlu writes no text" in refused(capsys, "--predictions", tmp_path / "p.jsonl", "reward.type=answer")[0]


@pytest.mark.parametrize(
    ("rewards", "problem"),
    [
        ([(1.0,), (1.0, 2.0)], "1 samples but 2 rewards"),
        ([(1.0,), ()], "only some of its rows have rewards"),
        ([(1.0,), (float("nan"),)], "a reward is not finite"),
    ],
)
def test_rewards_that_do_not_fit_are_refused(
    rewards: list[tuple[float, ...]], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = Sample("a", 1, False)
    rows = [Prediction("generation", row, "p", samples=(sample,), rewards=own) for row, own in enumerate(rewards)]
    write_predictions(rows, tmp_path / "p.jsonl")
    assert main(["eval", "--predictions", str(tmp_path / "p.jsonl")]) != 0
    assert problem in capsys.readouterr().err
