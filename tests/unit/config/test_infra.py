"""Infrastructure files: every problem at once, no secrets, and what they lay over a recipe."""

from pathlib import Path

import pytest

from gkd_dist.config.infra import InfraConfig, load_infra
from gkd_dist.config.load import load_run_config
from gkd_dist.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    path = folder / "infra.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_infra(written(folder, text))
    return [problem.partition("infra.yaml: ")[2] for problem in caught.value.problems]


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "adress: http://head:8265\noutput_dir: runs\nsamplers: {num_replicas: 0, num_gpu: 1}\npackage: both\n",
    )
    assert found == [
        "adress: unknown key; did you mean address?",
        "samplers.num_gpu: unknown key; did you mean num_gpus?",
        "output_dir: must be absolute (a job has no folder of its own to stay in), got runs",
        "package: must be one of installed, upload",
        "samplers.num_replicas: must be a whole number between 1 and 10000, or null",
    ]


def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "env_vars: {HF_TOKEN: hf_abc123, TZ: UTC}\n")
    assert found == "env_vars: HF_TOKEN: a secret must not stand in a file; name it under env_from"
    (found,) = problems(tmp_path, "env_vars: {HF_TOKEN: [hf_abc123]}\n")
    assert "hf_abc123" not in found


@pytest.mark.parametrize(
    "variable",
    ["OPENAI_KEY: x", "DB_PASS: x", "GITHUB_PAT: x", "WANDB: sk-1", "GH: ghp_1", "PGURL: 'postgres://me:pw@host/db'"],
)
def test_secrets_are_known_by_name_or_by_value_and_not_shown(tmp_path: Path, variable: str) -> None:
    name = variable.partition(":")[0]
    (found,) = problems(tmp_path, f"env_vars: {{{variable}}}\n")
    assert found == f"env_vars: {name}: a secret must not stand in a file; name it under env_from"


def test_what_is_no_secret_goes(tmp_path: Path) -> None:
    text = "env_vars: {TOKENIZERS_PARALLELISM: 'false', HF_HOME: /hf_home, PROXY: 'http://host:80/x', KEYBOARD: us}\n"
    assert load_infra(written(tmp_path, text)).env_vars["KEYBOARD"] == "us"


def test_what_a_variable_may_be_is_said(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "env_vars: {HF_HUB_OFFLINE: 1}\n")
    assert found == "env_vars.HF_HUB_OFFLINE: must be text"


@pytest.mark.parametrize("key", ["env_from: [RAY_AUTH_TOKEN]", "env_vars: {RAY_AUTH_MODE: token}"])
def test_the_cluster_s_token_does_not_travel(tmp_path: Path, key: str) -> None:
    (found,) = problems(tmp_path, key)
    assert "the nodes of a cluster have its token themselves" in found


@pytest.mark.parametrize("key", ["env_from: [RAY_JOB_STOP_WAIT_TIME_S]", "env_vars: {RAY_JOB_STOP_WAIT_TIME_S: '3'}"])
def test_how_long_a_stop_waits_is_said_in_one_way(tmp_path: Path, key: str) -> None:
    (found,) = problems(tmp_path, key)
    assert "say stop_wait_s instead" in found


@pytest.mark.parametrize(
    ("text", "message"), [("- a\n", "must be a mapping"), ("a: [\n", "line "), ("a: 1\na: 2\n", "line 2")]
)
def test_what_is_no_mapping_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_infra(written(tmp_path, text))


def test_it_says_where_and_on_how_much_and_nothing_else() -> None:
    recipe = ["student.model=s", "teacher.model=t", "cluster.mode=ray"]
    plain = load_run_config("tiny", recipe)
    infra = InfraConfig.model_validate(
        {
            "output_dir": "/shared/runs",
            "samplers": {"num_replicas": 3, "num_gpus": 1, "resources": {"sampler": 1}},
            "teachers": {"num_replicas": 2},
            "learner": {"num_cpus": 8},
            "metrics": {"host": "0.0.0.0"},
        }
    )
    config = load_run_config("tiny", [*recipe, *infra.overrides(plain)])
    assert config.output_dir == Path("/shared/runs")
    assert (config.sampler.num_replicas, config.cluster.num_gpus_per_sampler) == (3, 1)
    assert config.cluster.resources_per_sampler == {"sampler": 1}
    assert config.teacher is not None and config.teacher.num_replicas == 2
    assert (config.cluster.num_cpus_learner, config.metrics.host) == (8, "0.0.0.0")
    assert InfraConfig().overrides(plain) == []


def test_teachers_are_reached_by_their_names() -> None:
    recipe = ["student.model=s", "teachers={a: {model: t}, b: {model: u}}", "objective.combine_teachers=arithmetic"]
    plain = load_run_config("tiny", [*recipe, "teacher=null"])
    infra = InfraConfig.model_validate({"teachers": {"num_replicas": 2}})
    assert infra.overrides(plain) == ["teachers.a.num_replicas=2", "teachers.b.num_replicas=2"]
