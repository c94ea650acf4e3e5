"""`gkd eval` with a task and `gkd generate`, on models made here."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from gkd_dist import evaluating
from gkd_dist.cli import main
from gkd_dist.config.load import load_eval_config
from gkd_dist.evaluation.intervals import Figure
from gkd_dist.evaluation.predictions import Prediction, Sample, write_predictions
from gkd_dist.evaluation.results import row_of
from gkd_dist.evaluation.search import SearchingWriter
from gkd_dist.evaluation.writers import Completion
from gkd_dist.preparation import eval_needs
from gkd_dist.types import Prompt, SamplingParams
from tests.tiny import VOCABULARY, save_causal, save_t5, save_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    save_causal(path / "student", seed=1)
    save_causal(path / "teacher", seed=2)
    save_t5(path / "t5", seed=3)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"prompt": f"w{n} w{n + 1} w5", "completion": f"w{n} w4"} for n in range(7, 12)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    assert main(["eval", *map(str, arguments), "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out) if code == 0 else {}


def test_a_causal_model_against_its_teacher_and_again_from_its_predictions(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(
        capsys, models / "student", "--task", "summarisation", "--data", data, f"teacher={models / 'teacher'}",
        "decoding.max_new_tokens=4", "decoding.temperature=1", "decoding.num_samples=2", "decoding.batch_size=4",
        "num_resamples=100", f"output={tmp_path / 'out'}",
    )  # fmt: skip
    assert (result["num_rows"], result["settings"]["seed"]) == (5, 0)
    assert {"rouge1", "rouge2", "rougeL", "mean_length_tokens", "truncated_share", "self_bleu"} < result[
        "figures"
    ].keys()
    assert result["figures"]["student_text/forward_kl_nats"]["value"] > 0.1
    assert result["figures"]["reference_text/reverse_kl_nats"]["low"] > 0
    assert result["versions"]["scipy"] and result["signatures"]["self_bleu"].startswith("nrefs:")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == result
    again = evaluate(capsys, "--predictions", tmp_path / "out" / "predictions.jsonl", "num_resamples=100")
    assert again["figures"] == result["figures"]


@pytest.mark.parametrize(("num_words", "num_tokens", "num_cut"), [(6, 7, 0), (600, 509, 1)])
def test_references_are_measured_whole_or_told_to_be_cut(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], num_words: int, num_tokens: int, num_cut: int
) -> None:
    """The models have 512 positions, three of which the prompt takes; the length limit of what is written is 2."""
    row = {"prompt": "w7 w8 w5", "completion": "w9 " * num_words}
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{json.dumps(row)}\n")
    arguments = [
        str(models / "student"), "--task", "generation", "--data", str(file), "decoding.max_new_tokens=2",
        "fields.reference=completion", f"teacher={models / 'teacher'}", f"output={tmp_path / 'out'}",
    ]  # fmt: skip
    assert main(["eval", *arguments]) == 0
    assert (f"reference_text/*: {num_cut} references were cut" in capsys.readouterr().out) == (num_cut > 0)
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    written = json.loads((tmp_path / "out" / "predictions.jsonl").read_text())
    assert written["on_reference"]["num_tokens"] == num_tokens
    assert result["num_references_cut"] == num_cut
    again = evaluate(capsys, "--predictions", tmp_path / "out" / "predictions.jsonl")
    assert again["num_references_cut"] == num_cut


@pytest.mark.parametrize("search", [("decoding.num_beams=3", "decoding.length_penalty=0.6"), ()])
def test_an_encoder_decoder_translates(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], search: Sequence[str]
) -> None:
    result = evaluate(
        capsys, models / "t5", "--task", "translation", "--data", data, "decoding.max_new_tokens=4", *search,
        "num_resamples=100", f"output={tmp_path / 'out'}", f"teacher={models / 't5'}",
    )  # fmt: skip
    assert result["figures"]["reference_text/forward_kl_nats"]["value"] == pytest.approx(0, abs=1e-5)
    assert result["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    assert result["figures"]["mean_length_tokens"]["value"] <= 4


@pytest.mark.parametrize("save", [save_causal, save_t5])
def test_drawn_text_is_calculated_as_greedy_text_is(
    save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a temperature of nearly 0 both write the same. Nearly every token asks for a sum."""
    model = save(tmp_path / "model", seed=2)
    sums = [f"a:{first}+{second}=" for first in range(10) for second in range(10)]
    words = ["<pad>", "</s>", "<unk>", "=", *map(str, range(19)), *sums]
    save_tokenizer(model, [*words, *(f"w{number}" for number in range(len(words), VOCABULARY))])
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(f'{{"prompt": "a:1+{n}= {n}"}}\n' for n in range(5)))

    def texts(temperature: float) -> list[str]:
        folder = tmp_path / str(temperature)
        evaluate(
            capsys, model, "--task", "generation", "--data", file, "decoding.max_new_tokens=9",
            "decoding.calculator=equations", f"decoding.temperature={temperature}", "num_resamples=100",
            f"output={folder}",
        )  # fmt: skip
        return [json.loads(row)["samples"][0]["text"] for row in (folder / "predictions.jsonl").open()]

    greedy = texts(0)
    assert texts(1e-4) == greedy
    answers = [answer for text in greedy for answer in re.findall(r"a:(\d)\+(\d)= (\d+)", text)]
    assert len(answers) > 3 and all(int(first) + int(second) == int(value) for first, second, value in answers)


@pytest.mark.parametrize("temperature", [0, 1])
def test_what_is_written_is_cut_before_the_first_of_the_texts_that_begin_a_next_question(
    temperature: float, models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This model of random weights does not end by itself."""
    arguments = [
        models / "teacher", "--task", "generation", "--data", data, "decoding.max_new_tokens=8",
        f"decoding.temperature={temperature}", "num_resamples=100",
    ]  # fmt: skip

    def samples(name: str, *overrides: str) -> list[dict[str, Any]]:
        evaluate(capsys, *arguments, f"output={tmp_path / name}", *overrides)
        file = tmp_path / name / "predictions.jsonl"
        return [json.loads(row)["samples"][0] for row in file.read_text().splitlines()]

    whole = samples("whole")
    words = whole[0]["text"].split()
    stops = [f" {words[5]}", f" {words[3]}"]
    cut = samples("cut", f"stop={json.dumps(stops)}")
    for own, all_of_it in zip(cut, whole, strict=True):
        ends = [all_of_it["text"].index(stop) for stop in stops if stop in all_of_it["text"]]
        assert own["text"] == all_of_it["text"][: min(ends, default=None)]
        assert own["is_truncated"] == (all_of_it["is_truncated"] and not ends)
        num_words = len(own["text"].split())
        assert own["num_tokens"] == (num_words if own["is_truncated"] else num_words + 1), "a word, or </s>, ends it"
    assert len(cut[0]["text"].split()) <= 3


def test_greedy_decoding_ends_where_a_next_question_begins(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = SearchingWriter.write, list[Completion]()

    async def seen(self: SearchingWriter, asked: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        written.extend(await write(self, asked, params))
        return written

    monkeypatch.setattr(SearchingWriter, "write", seen)
    evaluate(
        capsys, models / "teacher", "--task", "generation", "--data", data, "decoding.max_new_tokens=8", "num_rows=1",
        "stop=[nothing, w3]", "num_resamples=100", f"output={tmp_path / 'out'}",
    )  # fmt: skip
    assert [each.token_ids.tolist() for each in written] == [[69, 54, 3]]


@pytest.mark.parametrize("temperature", [0, 1])
def test_what_is_judged_is_what_is_counted_and_measured_whatever_the_batch(
    temperature: float, models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(batch_size: int) -> list[dict[str, Any]]:
        folder = tmp_path / str(batch_size)
        evaluate(
            capsys, models / "teacher", "--task", "generation", "--data", data, f"decoding.temperature={temperature}",
            "decoding.max_new_tokens=8", f"decoding.batch_size={batch_size}", "stop=[w3, w4]",
            f"teacher={models / 'student'}", "num_resamples=100", f"output={folder}",
        )  # fmt: skip
        return [json.loads(row) for row in (folder / "predictions.jsonl").read_text().splitlines()]

    alone, together = rows(1), rows(5)
    assert len({row["samples"][0]["num_tokens"] for row in alone}) > 1
    for one, other in zip(alone, together, strict=True):
        assert one["samples"] == other["samples"]
        assert one["samples"][0]["num_tokens"] == one["on_samples"][0]["num_tokens"]
        assert one["on_samples"][0] == pytest.approx(other["on_samples"][0], rel=1e-4)


def test_options_of_a_file_of_keys(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"subject": "law", "question": "w7 w8", "choices": ["w9", "w10"], "answer": 1}
    (tmp_path / "mmlu.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    keys = f"model: {models / 'student'}\ntask: mmlu\ndata: {tmp_path / 'mmlu.jsonl'}\nshots:\n  num: 0\n"
    (tmp_path / "eval.yaml").write_text(keys)
    monkeypatch.chdir(tmp_path)
    result = evaluate(capsys, "--config", tmp_path / "eval.yaml", "num_rows=2")
    assert (result["num_rows"], result["figures"].keys()) == (2, {"accuracy_task_average", "accuracy"})
    written = (tmp_path / "evaluations" / "student-mmlu-1" / "predictions.jsonl").read_text().splitlines()
    first, second = (json.loads(line)["log_probs"] for line in written)
    assert first == pytest.approx(second) and len(first) == 2


def test_the_student_of_a_run_is_found(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "r-1"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("")
    (tmp_path / "runs" / "latest").symlink_to("r-1")
    arguments = ["generate", "latest", "--prompts", str(data), "--output-dir", str(tmp_path / "runs"), "num_rows=2"]
    assert main(arguments) == 2
    assert "has no trained student yet" in capsys.readouterr().err
    (run / "final").symlink_to(models / "student")
    assert main([*arguments, "decoding.max_new_tokens=3"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["index"], row["prompt"]) for row in rows] == [(0, "w7 w8 w5"), (1, "w8 w9 w5")]
    assert all(len(row["completions"]) == 1 for row in rows)
    assert "2 of 2 completions" in err


def test_results_say_which_run_latest_was(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "r-1"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("")
    (run / "final").symlink_to(models / "student")
    (tmp_path / "runs" / "latest").symlink_to("r-1")
    monkeypatch.chdir(tmp_path)
    result = evaluate(
        capsys, "latest", "--task", "generation", "--data", data, "num_rows=1", "decoding.max_new_tokens=2"
    )
    assert (result["model"], result["model_path"]) == ("latest", str(models / "student"))
    assert (tmp_path / "evaluations" / "r-1-generation-1" / "results.json").is_file()


def test_what_is_written_says_its_row_and_is_there_whole_or_not_at_all(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = data.read_text().splitlines()
    data.write_text("\n".join([rows[0], json.dumps({"prompt": "w9 " * 20}), *rows[1:]]))
    output = tmp_path / "out" / "written.jsonl"
    arguments = ["generate", str(models / "student"), "--prompts", str(data), "--output", str(output)]
    arguments += ["max_prompt_tokens=10", "overlong=drop", "decoding.max_new_tokens=2"]
    assert main(arguments) == 0
    assert [json.loads(line)["index"] for line in output.read_text().splitlines()] == [0, 2, 3, 4, 5]
    assert "is written anew" not in capsys.readouterr().out
    assert main(arguments) == 0
    assert f"{output} is there already, and is written anew" in capsys.readouterr().out
    before = output.read_bytes()

    def full(path: Path, target: Path) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", full)
        with pytest.raises(OSError, match="No space left"):
            evaluating.generate(
                load_eval_config(None, {"model": str(models / "student"), "data": str(data)}, arguments[6:]),
                output,
                output_dir=tmp_path,
            )
    assert output.read_bytes() == before


@pytest.mark.parametrize("name", ["rows.jsonl", "../{}/rows.jsonl", "link.jsonl", "same.jsonl"])
def test_the_prompts_are_never_overwritten(
    models: Path, data: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (data.parent / "link.jsonl").symlink_to(data)
    (data.parent / "same.jsonl").hardlink_to(data)
    before = data.read_bytes()
    output = data.parent / name.format(data.parent.name)
    assert main(["generate", str(models / "student"), "--prompts", str(data), "--output", str(output)]) == 2
    told = capsys.readouterr().err
    assert f"error: --output: {output} is also --prompts, whose rows would be lost; choose another file\n" in told
    assert data.read_bytes() == before


@pytest.mark.parametrize(("name", "told"), [("folder", "is a folder; name a file"), ("rows.jsonl/o", "not a folder")])
def test_an_output_that_cannot_be_written_is_told_with_the_rest_before_the_model_loads(
    models: Path, data: Path, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    (data.parent / "folder").mkdir()
    arguments = ["generate", str(models / "student"), "--prompts", str(data), "--output", str(data.parent / name)]
    assert main([*arguments, "not_in=none.jsonl"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["error", "not_in"], ["error", "--output"]]
    assert told in lines[1]
    assert not list((data.parent / "folder").iterdir())


def test_what_is_written_for_training_never_comes_from_a_test_split_unasked(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def hub(name: str, config: str | None, split: str) -> list[dict[str, str]]:
        asked.append(split)
        return [{"question": f"w7 of {split}"}]

    monkeypatch.setattr(datasets, "load_dataset", hub)
    arguments = ["generate", str(models / "student"), "--prompts", "openai/gsm8k:main", "fields.prompt=question"]
    assert main(arguments) == 2
    assert "split=train" in capsys.readouterr().err
    assert asked == []
    assert main([*arguments, "split=train", "decoding.max_new_tokens=2"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "w7 of train"
    evaluated = [str(models / "student"), "--task", "gsm8k", "--data", "openai/gsm8k:main"]
    assert main(["eval", *evaluated]) == 2  # the rows have no answers
    assert asked == ["train", "test"]


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (
            ["m", "--task", "dance", "--data", "d.jsonl", "decoding.num_beam=2", "seed=-1"],
            ["decoding.num_beam: unknown key", "task: must be one of", "seed: must be at least 0"],
        ),
        (
            [
                "m",
                "--task",
                "mmlu",
                "--data",
                "d.jsonl",
                "engine=vllm",
                "decoding={num_beams: 4, temperature: 1}",
                "teacher=t",
                "shots.num=0",
            ],
            ["beam search needs engine=hf", "beam search returns one completion", "task=mmlu writes no text"],
        ),
        (
            ["m", "--task", "mmlu", "--data", "d.jsonl", "stop=[a, '']", "shots.style=direct"],
            [
                "stop: an empty text stands before",
                "stop: task=mmlu writes no text to cut",
                "shots.style: task=mmlu has",
            ],
        ),
        (
            ["m", "--task", "mmlu", "--data", "d.jsonl", "decoding.calculator=equations"],
            ["decoding.calculator: task=mmlu writes no text to compute in; remove it"],
        ),
        (["m", "--task", "gsm8k"], ["data: required, but not given"]),
        (
            ["m", "--task", "gsm8k", "--data", "d.jsonl", "decoding.num_samples=3", "template=x", "subsets=[a]"],
            ["greedy samples are all alike", "template: must contain {prompt}", "subsets: task=gsm8k has none"],
        ),
    ],
)
def test_wrong_settings(arguments: list[str], problems: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *arguments]) == 2
    told = capsys.readouterr().err.splitlines()
    lines = [line for line in told if "no such file" not in line]  # of d.jsonl, where keys are right one by one
    assert len(lines) == len(problems)
    assert all(any(problem in line for line in lines) for problem in problems)


@pytest.mark.parametrize("name", ["none.yaml", "quickstart", "small/multi30k"])
def test_keys_of_a_task_come_from_a_file_not_from_a_recipe(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "--config", name]) == 2
    told = capsys.readouterr().err
    assert told == f"error: --config: no such file: {name}; relative paths start at {tmp_path}\n"


def test_missing_packages_files_and_models_are_told_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eval_needs.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "results.json").write_text("{}")
    arguments = ["./none", "--task", "translation", "--data", "no.jsonl", "teacher=./no", f"output={tmp_path}"]
    assert main(["eval", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    wanted = [
        "pip install 'gkd-dist[eval]'",
        "data: no such file",
        "holds results already",
        "model: './none'",
        "teacher: './no'",
    ]
    assert len(lines) == len(wanted)
    assert all(text in line for text, line in zip(wanted, lines, strict=True))


@pytest.mark.parametrize("command", [["eval", "--task", "generation", "--data"], ["generate", "--prompts"]])
def test_a_gpu_that_is_not_there_is_told_with_the_rest_before_the_model_loads(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    name, *options = command
    assert main([name, str(models / "student"), *options, "no.jsonl", "device=cuda"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("error: device: cuda needs a GPU") for line in lines)
    assert any(line.startswith("error: data: no such file") for line in lines)
    assert len(lines) == 2


def test_vllm_is_refused_for_an_encoder_decoder(models: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(models / "t5"), "--task", "translation", "--data", str(data), "engine=vllm"]) == 2
    assert "error: engine: vllm cannot run" in capsys.readouterr().err


def test_damaged_weights_are_told_before_the_model_loads(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_causal(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert main(["eval", str(folder), "--task", "translation", "--data", str(data)]) == 2
    assert "is truncated or not a safetensors file" in capsys.readouterr().err


def test_prompts_that_are_too_long_are_an_error_or_dropped(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with data.open("a") as file:
        file.write(json.dumps({"prompt": "w9 " * 20, "completion": "w4"}) + "\n")
    arguments = [models / "student", "--task", "generation", "--data", data, "max_prompt_tokens=10"]
    assert main(["eval", *map(str, arguments)]) == 2
    assert "overlong: 1 of 6 prompts have more than 10 tokens" in capsys.readouterr().err
    short = ["decoding.max_new_tokens=2", "num_resamples=100"]
    result = evaluate(capsys, *arguments, "overlong=drop", *short, f"output={tmp_path / 'a'}")
    assert (result["num_rows"], result["num_dropped"]) == (5, 1)
    for side in ("left", "right"):
        result = evaluate(capsys, *arguments, f"overlong=truncate_{side}", *short, f"output={tmp_path / side}")
        assert (result["num_rows"], result["num_dropped"]) == (6, 0)
    assert main(["eval", *map(str, arguments), "decoding.max_new_tokens=600"]) == 2
    assert "leave room for prompts of 0 tokens" in capsys.readouterr().err


def test_every_file_that_is_missing_is_told_under_its_own_key(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": 1}\n' + "".join(f'{{"prompt": "w{n}"}}\n' for n in range(4)))
    arguments = [
        str(models / "student"), "--task", "gsm8k", "--data", str(bad), "fields.prompt=prompt",
        "fields.reference=completion", "teacher=/nope", "not_in=/nope2", "shots.path=/nope3",
    ]  # fmt: skip
    assert main(["eval", *arguments]) == 2
    lines = [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines()]
    wanted = [
        "not_in: no such file: /nope2",
        "shots.path: no such file: /nope3",
        f"{bad}:1: prompt must be text",
        f"{bad}:2: no column 'completion', only prompt; map it with fields.reference",
        f"{bad}:3: ",
        "2 more rows are refused too, 5 in all",
        "teacher: ",
    ]
    assert len(lines) == len(wanted)
    assert all(line.startswith(start) for line, start in zip(lines, wanted, strict=True))


def test_a_wrong_value_does_not_hide_a_missing_file_and_makes_no_other_problem(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, told in ((tmp_path / "none.jsonl", ["task: must be", "data: no such file"]), (data, ["task: must be"])):
        arguments = [str(models / "student"), "--task", "translatoin", "--data", str(file)]
        assert main(["eval", *arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert [line.startswith(f"error: {start}") for line, start in zip(lines, told, strict=True)] == [True] * len(
            told
        )


def test_predictions_and_a_model_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "model", "--predictions", "p.jsonl"]) == 2
    assert "a model has no part in --predictions; leave model out" in " ".join(capsys.readouterr().err.split())


def kept(folder: Path) -> Path:
    row = Prediction("translation", 0, "w7", ("w4",), samples=(Sample("w4", 1, False),))
    write_predictions([row], folder / "predictions.jsonl")
    return folder / "predictions.jsonl"


def test_what_has_no_part_in_predictions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    idle = ["decoding.num_beams=4", "num_rows=2", "teacher=t", "device=cuda", "model=m"]
    arguments = ["--predictions", str(kept(tmp_path)), "--task", "summarisation", "--data", "d.jsonl"]
    assert main(["eval", *arguments, *idle, "seed=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    keys = ["data", "decoding", "device", "model", "num_rows", "teacher", "task"]
    assert [line.split(": ")[:2] for line in lines] == [["error", key] for key in keys]
    assert lines[-1].endswith(f"summarisation is not that of {tmp_path / 'predictions.jsonl'}, which is translation; "
                              "remove it")  # fmt: skip


def test_predictions_that_are_not_there_are_told_with_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["eval", "--predictions", str(tmp_path / "p.jsonl"), "num_rows=2", f"output={tmp_path / 'file'}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    wanted = ["error: num_rows: ", "error: output: ", f"error: {tmp_path / 'p.jsonl'}: cannot be read"]
    assert all(line.startswith(start) for line, start in zip(lines, wanted, strict=True))


def test_figures_again_take_the_keys_of_metrics_and_a_file_with_all_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "eval.yaml"
    keys.write_text("model: m\ntask: translation\ndata: d.jsonl\ndevice: cuda\ndecoding: {num_beams: 4}\n")
    arguments = ["--predictions", kept(tmp_path), "--config", keys, "num_resamples=100", "confidence=0.9", "seed=3"]
    result = evaluate(capsys, *arguments, "bleu_tokenize=intl", "rouge_stemmer=false", "--task", "translation")
    assert "tok:intl" in result["signatures"]["bleu"]
    assert (result["intervals"]["num_resamples"], result["intervals"]["seed"]) == (100, 3)


def test_figures_again_replace_their_own_results_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other = kept(tmp_path / "own"), kept(tmp_path / "other")
    evaluate(capsys, "--predictions", other, f"output={tmp_path / 'other'}")
    evaluate(capsys, "--predictions", own, f"output={tmp_path / 'new'}")
    for taken, what in (("other", "other predictions"), ("new", "results")):
        before = (tmp_path / taken / "results.json").read_bytes()
        assert main(["eval", "--predictions", str(own), f"output={tmp_path / taken}", "seed=1"]) == 2
        assert f"error: output: {tmp_path / taken} holds {what} already; choose" in capsys.readouterr().err
        assert (tmp_path / taken / "results.json").read_bytes() == before
    for seed in (1, 2):
        evaluate(capsys, "--predictions", own, f"output={tmp_path / 'own'}", f"seed={seed}")
    assert json.loads((tmp_path / "own" / "results.json").read_text())["intervals"]["seed"] == 2


def test_a_zero_has_no_sign() -> None:
    assert row_of("x", Figure(-1e-9, -0.0004, 0.0, 3)) == ["x", "0.000", "0.000 .. 0.000", "3"]
    assert row_of("x", Figure(-0.001, None, None, 1))[1] == "-0.001"


def test_prompts_without_a_prompt_name_its_key_alone(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "w7"}\n')
    assert main(["generate", str(models / "student"), "--prompts", str(file)]) == 2
    err = capsys.readouterr().err
    assert "map it with fields.prompt" in err and "fields.reference" not in err
