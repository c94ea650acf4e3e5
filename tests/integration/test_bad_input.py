"""A user's mistakes, through the command: exit code 2, one clear line each, no traceback, nothing started."""

import gzip
import json
import os
import shutil
import socket
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
        capsys.readouterr()  # making a model shows progress
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


@pytest.mark.fault(40)
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


@pytest.mark.fault(39)
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


@pytest.mark.fault(40)
@pytest.mark.fault(41)
def test_prompts_longer_than_the_context(fails: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"prompt": "w3 " * 300, "completion": "w4"}] * 10
    said = fails(f"data.path={write(tmp_path / 'rows.jsonl', *rows)}")
    assert "300" in said
    assert "max_model_len" in said


def test_fixed_pairs_wanted_but_the_data_has_none(fails: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"prompt": f"w{number}"} for number in range(3, 30)]
    said = fails(f"data.path={write(tmp_path / 'rows.jsonl', *rows)}", "objective.student_fraction=0.5")
    assert "student_fraction" in said


@pytest.mark.fault(43)
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


def test_problems_of_data_and_output_folder_come_together(fails: Callable[..., str], tmp_path: Path) -> None:
    taken = write(tmp_path / "file", PAIR)
    said = fails("data.path=no/such/file.jsonl", f"output_dir={taken}")
    assert f"output_dir: {taken} is not a folder" in said
    assert "no/such/file.jsonl" in said
    assert "is not a folder" in fails(f"output_dir={taken / 'below'}")


def test_an_output_folder_that_cannot_be_written(
    fails: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert f"output_dir: {tmp_path} is not writable" in fails()


@pytest.mark.parametrize(("role", "section"), [("student", "sampler"), ("teacher", "teacher")])
def test_an_encoder_decoder_on_vllm_is_refused(
    fails: Callable[..., str], tmp_path: Path, role: str, section: str
) -> None:
    path = tiny.save_t5(tmp_path / "t5")
    said = fails(f"{role}.model={path}", f"{section}.engine=vllm")
    assert said == (
        f"error: {section}.engine: vllm cannot run {path} (T5ForConditionalGeneration), because vLLM has no "
        f"encoder-decoder language models; set {section}.engine=hf\n"
    )


def changed(models: Path, path: Path, **settings: object) -> Path:
    """The student with other settings in its config.json."""
    shutil.copytree(models / "student", path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | settings))
    return path


def test_a_model_without_a_head_is_refused(fails: Callable[..., str], models: Path, tmp_path: Path) -> None:
    path = changed(models, tmp_path / "body", architectures=["LlamaModel"])
    assert "(LlamaModel) is no causal or encoder-decoder language model" in fails(f"teacher.model={path}")


def test_a_context_longer_than_the_model_has_positions(fails: Callable[..., str], models: Path, tmp_path: Path) -> None:
    path = changed(models, tmp_path / "short", max_position_embeddings=100)
    said = fails(f"student.model={path}", f"teacher.model={path}")
    assert f"sampler.max_model_len: 256 is more than the 100 positions of {path}" in said
    assert f"teacher.max_model_len: 256 is more than the 100 positions of {path}" in said


def test_more_token_ids_than_logits(fails: Callable[..., str], tmp_path: Path) -> None:
    path = tiny.save_causal(tmp_path / "small", vocab_size=100)
    said = fails(f"student.model={path}")
    assert "student.model: the tokenizer" in said
    assert "has 128 ids, but the model's vocab_size is 100" in said


def test_truncated_weights_of_both_models_are_named(fails: Callable[..., str], models: Path, tmp_path: Path) -> None:
    paths = [changed(models, tmp_path / name) for name in ("cut", "empty")]
    for path, num_bytes in zip(paths, (5000, 0), strict=True):
        with (path / "model.safetensors").open("r+b") as file:
            file.truncate(num_bytes)
    said = fails(f"student.model={paths[0]}", f"teacher.model={paths[1]}")
    assert f"student.model: {paths[0] / 'model.safetensors'} is truncated" in said
    assert f"teacher.model: {paths[1] / 'model.safetensors'} is truncated" in said


def test_more_layers_kept_than_there_are(fails: Callable[..., str], models: Path) -> None:
    assert "has 2 layers, cannot keep 9" in fails("student.prune.num_layers=9")


def test_prompts_leave_room_for_what_the_evaluation_writes(fails: Callable[..., str]) -> None:
    said = fails("evaluation.max_new_tokens=200", "data.max_prompt_tokens=100")
    assert "data.max_prompt_tokens: 100 prompt tokens and 200 new tokens" in said


def test_a_busy_metrics_port_is_found_first(fails: Callable[..., str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"metrics.port: {port}" in fails(f"metrics.port={port}")


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"prompt": "w3", "completion": "w4", "n": ' + "1" * 5000 + "}", '{"prompt": "w3 \\ud800"}'],
    ids=["deep", "huge number", "half a surrogate pair"],
)
def test_hostile_lines_are_named(fails: Callable[..., str], tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "rows.jsonl", PAIR, line + "\n")
    assert "rows.jsonl:2" in fails(f"data.path={path}")
