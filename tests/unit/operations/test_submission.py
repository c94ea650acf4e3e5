"""What `gkd submit` sends: a resolved recipe or a folder, variables by name, no secrets in what is shown."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import gkd_dist
from gkd_dist.cli import main
from gkd_dist.config.load import load_run_config

RECIPE = ["student.model=s", "teacher.model=t", "output_dir=/shared/runs"]


class Cluster:
    """Stands in for the jobs of a cluster; keeps what it was sent."""

    def __init__(self, address: str) -> None:
        self.address = address

    def submit(self, command: Sequence[str], *, runtime_env: dict[str, Any], **others: Any) -> str:
        folder = Path(runtime_env["working_dir"])
        sent.append(
            {
                "command": list(command),
                "files": {path.name: path.read_text() for path in folder.iterdir() if path.is_file()},
                "runtime_env": runtime_env,
                **others,
            }
        )
        return f"{others['run']}-attempt-1"


sent: list[dict[str, Any]] = []


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = ModuleType("gkd_dist.cluster.jobs")
    module.Jobs = Cluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gkd_dist.cluster.jobs", module)
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    sent.clear()


def test_a_recipe_travels_resolved_and_joins_the_cluster_of_its_job(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: tiny\nname: mine\ncluster: {mode: ray}\ndata: {path: rows.jsonl}\n")
    (tmp_path / "rows.jsonl").touch()
    assert main(["submit", "mine.yaml", *RECIPE, "--address", "http://head:8265"]) == 0
    (job,) = sent
    assert job["command"] == ["python", "-m", "gkd_dist", "run", "recipe.yaml"]
    assert job["run"] == "mine" and "py_modules" not in job["runtime_env"]
    (tmp_path / "received.yaml").write_text(job["files"]["recipe.yaml"])
    config = load_run_config("received.yaml")
    assert config.cluster.address == "auto" and str(config.data.path) == str(tmp_path / "rows.jsonl")
    assert job["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "600"}


def test_a_working_folder_travels_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "mine.yaml").write_text("extends: tiny\nname: mine\ndata: {path: rows.jsonl}\n")
    (folder / "rows.jsonl").touch()
    (tmp_path / "infra.yaml").write_text("samplers: {num_replicas: 2}\noutput_dir: /elsewhere\n")
    words = ["--working-dir", "project", "--infra", "infra.yaml", "--address", "http://head:8265"]
    assert main(["submit", "mine.yaml", *RECIPE, "cluster.mode=ray", *words]) == 0
    (job,) = sent
    assert set(job["files"]) == {"mine.yaml", "rows.jsonl"}
    assert job["command"][4:7] == ["mine.yaml", 'output_dir="/elsewhere"', "sampler.num_replicas=2"]
    assert job["command"][-2:] == ["cluster.mode=ray", "cluster.address=auto"]
    assert job["command"][7:-2] == RECIPE, "the user's own come later and win"
    assert Path.cwd() == tmp_path


def test_variables_go_by_name_and_stay_out_of_everything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "infra.yaml").write_text("env_from: [HF_TOKEN]\nenv_vars: {TZ: UTC}\npackage: upload\n")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    command = ["submit", "tiny", *RECIPE, "--infra", "infra.yaml", "--address", "http://head:8265"]
    assert main(command) == 0
    (job,) = sent
    environment = job["runtime_env"].pop("env_vars")
    assert environment == {"RAY_JOB_STOP_WAIT_TIME_S": "600", "TZ": "UTC", "HF_TOKEN": "hf_secret"}
    assert job["runtime_env"]["py_modules"] == [str(Path(gkd_dist.__file__).parent)]
    assert "hf_secret" not in str(job) + capsys.readouterr().out
    monkeypatch.delenv("HF_TOKEN")
    assert main(command) == 2
    assert "env_from: HF_TOKEN is not set here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["output_dir=runs"], "output_dir: runs is relative"),
        (["learner.max_stepz=3"], "did you mean max_steps"),
        (["--infra", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--working-dir", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "tiny", *RECIPE, *words, "--address", "http://head:8265"]) == 2
    assert message in capsys.readouterr().err and not sent


def test_what_is_wrong_with_the_run_and_with_the_cluster_comes_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "tiny", *RECIPE, "output_dir=runs"]) == 2
    said = capsys.readouterr().err
    assert "output_dir: runs is relative" in said and "no cluster is named; give --address" in said


def test_no_cluster_is_an_error_that_names_the_ways_to_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "tiny", *RECIPE]) == 2
    assert "no cluster is named; give --address" in capsys.readouterr().err and not sent
