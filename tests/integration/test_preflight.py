"""What is checked before models are touched: `gkd validate`, and the order of a run's checks."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import gkd_dist.models.packaged
import gkd_dist.models.pruning
from gkd_dist.cli import main
from gkd_dist.config.load import load_run_config
from gkd_dist.errors import ConfigError
from gkd_dist.preparation import prepare
from tests import tiny
from tests.unit.teachers.scripted_server import Script, serving

PACKAGE = "package:some-model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("models") / "model", num_layers=3)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(f'{{"prompt": "w{n} w7", "completion": "w5"}}\n' for n in range(3, 30)))
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An installed package with a GGUF file; the conversions asked for are noted."""
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF")
    converted: list[str] = []
    found = gkd_dist.models.packaged._PackagedFile("some-model", "1.0", source, None)
    monkeypatch.setattr(gkd_dist.models.packaged, "_packaged_file", lambda name: found)
    monkeypatch.setattr(gkd_dist.models.packaged, "_convert", lambda path, folder: converted.append(str(path)))
    monkeypatch.setenv("GKD_CACHE_DIR", str(tmp_path / "cache"))
    return converted


def forbidden(*_: object) -> None:
    raise AssertionError("no model may be loaded, converted or pruned")


def test_validate_converts_and_prunes_nothing_and_says_what_is_left(
    package: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["validate", "quickstart", f"student.model={PACKAGE}", f"teacher.model={PACKAGE}", f"data.path={data}"])
        == 0
    )
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("data: 27 rows")
    assert said[1:] == [
        f"{role}: {PACKAGE} is not converted yet; tokenizer checks are made when the run starts"
        for role in ("teacher", "student")
    ] + ["ok"]
    assert package == []
    assert not (tmp_path / "cache").exists()


def test_validate_checks_the_tokenizer_of_a_student_that_will_be_pruned(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gkd_dist.models.pruning, "pruned_student", forbidden)
    models = [f"student.model={model}", f"teacher.model={model}", "student.prune.num_layers=2"]
    assert main(["validate", "tiny", *models, f"data.path={data}"]) == 0
    assert "tokenizer: 128 ids shared" in capsys.readouterr().out


def test_a_run_converts_nothing_while_the_data_is_wrong(package: list[str]) -> None:
    config = load_run_config(
        "quickstart", [f"student.model={PACKAGE}", f"teacher.model={PACKAGE}", "data.path=none.jsonl"]
    )
    with pytest.raises(ConfigError, match=r"none\.jsonl"):
        prepare(config, lambda _: None)
    assert package == []


def test_a_run_prunes_nothing_while_something_does_not_fit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gkd_dist.models.pruning, "pruned_student", forbidden)
    data = tmp_path / "long.jsonl"
    data.write_text(('{"prompt": "' + "w3 " * 300 + '", "completion": "w5"}\n') * 9)
    models = [f"student.model={model}", f"teacher.model={model}", "student.prune.num_layers=2"]
    with pytest.raises(ConfigError, match="no usable prompt"):
        prepare(load_run_config("tiny", [*models, f"data.path={data}"]), lambda _: None)


def test_a_run_gets_the_pruned_student(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GKD_CACHE_DIR", str(tmp_path / "cache"))
    models = [f"student.model={model}", f"teacher.model={model}", "student.prune={num_layers: 2, drop_layers: [1]}"]
    job = prepare(load_run_config("tiny", [*models, f"data.path={data}"]), lambda _: None)
    assert job.blueprint.teachers == {"teacher": model}
    assert job.blueprint.student.is_relative_to(tmp_path / "cache")


def test_runs_with_two_seeds_are_evaluated_on_the_same_rows(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [
        prepare(load_run_config("tiny", [f"student.model={model}", f"teacher.model={model}", f"seed={seed}"]), print)
        for seed in (1, 2)
    ]
    texts: list[list[str]] = [[row.text for row in job.rendered.held_out] for job in jobs]
    assert texts[0] == texts[1]
    shuffled: list[Callable[[int], int]] = [job.plan("run", tmp_path).stream.row_index for job in jobs]
    assert [shuffled[0](index) for index in range(20)] != [shuffled[1](index) for index in range(20)]


SERVER = ("teacher.engine=server", "teacher.transport=topk")
NOBODY = "http://127.0.0.1:9/v1"


def test_the_teacher_of_a_server_needs_no_weights(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    models = [f"student.model={model}", f"teacher.model={bare}", f"data.path={data}"]
    with serving(Script()) as url:
        assert main(["validate", "tiny", *models, *SERVER, f"teacher.base_url={url}"]) == 0
    capsys.readouterr()
    assert main(["validate", "tiny", *models]) == 2
    assert "no weights" in capsys.readouterr().err
    models = [f"student.model={bare}", f"teacher.model={bare}", f"data.path={data}", f"teacher.base_url={NOBODY}"]
    assert main(["validate", "tiny", *models, *SERVER]) == 2


def test_validate_asks_the_server_of_a_teacher(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [f"student.model={model}", f"teacher.model={model}", f"data.path={data}"]
    assert main(["validate", "tiny", *models, *SERVER, f"teacher.base_url={NOBODY}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: teacher.base_url: {NOBODY} does not answer")
    assert said.count("\n") == 1 and "is `vllm serve` running there?" in said
    both = "student.lora.target_modules=[q_prok]", f"teacher.base_url={NOBODY}"
    assert main(["validate", "tiny", *models, *SERVER, *both]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
    assert main(["validate", "tiny", "--config-only", *models, *SERVER, f"teacher.base_url={NOBODY}"]) == 0
    with serving(Script()) as url:
        other = f"teacher.base_url={url}", "teacher.served_model_name=other"
        assert main(["validate", "tiny", *models, *SERVER, *other]) == 2
    assert "the server has no model other; it has tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("modules", "problem"),
    [
        ("[q_prok]", "student.lora.target_modules: Target modules {'q_prok'} not found"),
        ("[embed_tokens]", "embed_tokens reads or writes the vocabulary"),
        ("[q_proj]", None),
        ("all-linear", None),
    ],
)
def test_adapters_are_tried_on_the_shapes_of_the_student(
    model: Path, data: Path, modules: str, problem: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [f"student.model={model}", f"teacher.model={model}", f"data.path={data}"]
    code = main(["validate", "tiny", *models, f"student.lora={{r: 2, target_modules: {modules}}}"])
    assert code == (0 if problem is None else 2)
    assert (problem or "") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["teacher.transport=topk", "teacher.top_k=129"], "teacher.top_k: 129 is more than the 128 ids"),
        (
            ["teacher.engine=vllm", "teacher.transport=topk", "teacher.max_model_len=512"],
            "teacher.max_model_len: 513 is more than the 512 positions",
        ),
    ],
)
def test_what_a_transport_needs_of_the_model_is_checked(
    model: Path, data: Path, overrides: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [f"student.model={model}", f"teacher.model={model}", f"data.path={data}"]
    assert main(["validate", "tiny", *models, *overrides]) == 2
    assert problem in capsys.readouterr().err


def test_broken_rules_and_missing_files_are_told_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["tiny", "student.model=./no/student", f"teacher.model={tmp_path}", "data.path=none.jsonl"]
    for arguments in (["run", *wrong], ["validate", *wrong], ["eval", *wrong]):
        assert main([*arguments, "objective.alpha=0.5", "learner.max_stepz=3"]) == 2
        said = [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines()]
        starts = [
            "learner.max_stepz: unknown key",
            "objective.alpha: 0.5 needs a reward",
            "data.path: no such file: none.jsonl",
            f"teacher.model: {tmp_path} has no config.json",
            "student.model: './no/student' is no folder here",
        ]
        assert [line[: len(start)] for line, start in zip(said, starts, strict=True)] == starts
    assert main(["validate", "--config-only", *wrong, "objective.alpha=0.5"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
