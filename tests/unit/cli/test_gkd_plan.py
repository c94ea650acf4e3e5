"""`gkd plan`: from a recipe to a prediction, with a model that has no weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.cli import main
from gkd_dist.config.load import dump_run_config, load_run_config

LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}


@pytest.fixture
def recipe(tmp_path: Path) -> list[str]:
    """A recipe with overrides, its models folders with nothing but a config.json."""
    for name, layers in (("student", 16), ("teacher", 80)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": layers}))
    return [
        "quickstart",
        f"student.model={tmp_path / 'student'}",
        f"teacher.model={tmp_path / 'teacher'}",
        "student.prune=null",
        "learner.batch_size=128",
    ]


def planned(command: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["plan", *command, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_number_of_gpus_is_split_among_the_roles(recipe: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = planned([*recipe, "--gpus", "32", "--device", "h100", "mode=async"], capsys)

    assert found["devices"]["used"] <= 32
    assert found["devices"]["used"] == sum(found["devices"][role] for role in ("samplers", "teachers", "learner"))
    assert found["run_s"] == pytest.approx(found["step_s"] * 60)
    assert found["student"]["params"] == pytest.approx(1.236e9, rel=0.01)  # Llama-3.2-1B
    assert found["tokens_per_s"]["learner"] > 0
    fixed = [*recipe, "--device", "h100", "mode=async", "--split"]
    other = planned([*fixed, "{samplers},{teachers},{ranks}".format(**found["split"])], capsys)
    assert other["step_s"] == pytest.approx(found["step_s"])


def test_the_configuration_decides_what_is_written_and_sent(
    recipe: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*recipe, "--device", "h100", "--gpus", "8", "teacher.transport=topk", "teacher.top_k=32"]
    found = planned([*command, "objective.student_fraction=0.25", "sampling.max_new_tokens=100"], capsys)

    assert found["tokens_per_step"]["samplers"] == pytest.approx(128 * 0.25 * 100)
    assert found["wire_bytes_per_step"]["targets"] == pytest.approx(8 * 32 * found["tokens_per_step"]["learner"])


def test_sizes_and_lengths_may_be_given_instead_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--student-params", "1.7B", "--teacher-params", "30B-A3B"]
    lengths = ["--prompt-tokens", "200", "--completion-tokens", "40", "--fixed-tokens", "50"]
    found = planned(["quickstart", *sizes, *lengths, "--gpus", "16", "--device", "h200"], capsys)

    assert found["student"]["params"] == pytest.approx(1.7e9, rel=0.02)
    assert {key: found["lengths"][key] for key in ("prompt", "completion", "fixed")} == {
        "prompt": 200,
        "completion": 40,
        "fixed": 50,
    }


def test_people_get_a_table_and_the_bottleneck(recipe: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *recipe, "--gpus", "16", "--device", "a100-80"]) == 0

    shown = capsys.readouterr().out
    assert "bottleneck: " in shown
    assert "NVIDIA A100" in shown
    parts = ("samplers", "teachers", "learner", "publishing", "wire", "controller")
    assert all(part in shown for part in parts)
    assert "staleness bound" not in shown
    assert main(["plan", *recipe, "--gpus", "16", "--device", "a100-80", "mode=async"]) == 0
    assert "staleness bound" in capsys.readouterr().out


def test_parts_of_a_synchronous_step_add_up_to_it(recipe: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = planned([*recipe, "--gpus", "64", "--device", "h100"], capsys)
    assert sum(found["busy_s"].values()) == pytest.approx(found["step_s"])
    assert found["busy_s"]["controller"] == found["parts"]["controller_s"] > 0


def test_everything_that_is_wrong_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "quickstart", "learner.batch_sise=8", "--split", "1,2", "--device", "h1000"]

    assert main(command) == 2
    told = capsys.readouterr().err
    assert all(needle in told for needle in ("learner.batch_sise", "--split", "--device"))
    assert "Traceback" not in told


@pytest.mark.parametrize("split", ["²,1,1", "1,-1,1", "1,1", "a,b,c"])
def test_a_split_is_three_numbers(split: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "quickstart", "--device", "h100", "--split", split]) == 2
    assert "must be SAMPLERS,TEACHERS,RANKS" in capsys.readouterr().err


def test_a_model_that_is_not_here_asks_for_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "quickstart", f"student.model={tmp_path}", "student.prune=null", "--gpus", "4"]

    assert main([*command, "--device", "h100", "--save-device", "x.yaml"]) == 2
    told = capsys.readouterr().err
    assert "--student-params" in told
    assert "--calibrate" in told


def test_a_recipe_for_gpus_needs_a_device(recipe: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *recipe, "cluster.num_gpus_learner=1"]) == 2
    assert "h100" in capsys.readouterr().err


def test_sizes_stand_in_for_models_that_the_recipe_does_not_name(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--student-params", "1B", "--teacher-params", "2B"]
    assert planned(["tiny", *sizes, "--gpus", "1", "--device", "h100"], capsys)["student"]["params"] == pytest.approx(
        1e9
    )
    assert main(["plan", "tiny", *sizes[:2]]) == 2
    assert "teacher.model: required" in capsys.readouterr().err


def test_a_quantile_of_nothing_is_refused_and_a_device_may_be_in_capitals(
    recipe: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*recipe, "--device", "H100", "--gpus", "8"]
    assert "H100" in planned(command, capsys)["device"]
    assert main(["plan", *command, "--quantile", "0.1"]) == 2
    assert "--quantile: " in capsys.readouterr().err


def test_rates_of_a_run_are_saved_and_used(
    recipe: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("student", "teacher"):
        (tmp_path / name / "config.json").write_text(json.dumps({**LLAMA, "hidden_size": 256}))
    own = ["learner.batch_size=8", "objective.mix=per_sequence"]
    run = tmp_path / "run-1"
    run.mkdir()
    (run / "config.yaml").write_text(dump_run_config(load_run_config(recipe[0], [*recipe[1:], *own])))
    seconds = {"sample_s": 20.0, "score_s": 5.0, "learn_s": 40.0, "publish_s": 3.0}
    counts = {"student_sequences": 4, "fixed_sequences": 4, "sampled_tokens": 256.0, "trained_tokens": 512}
    record = {**seconds, **counts, "scored_tokens": 512.0 + 8 * 448, "step_s": 68.1}
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": step, **record}) + "\n" for step in range(5)))
    device = tmp_path / "mine.yaml"

    calibrated = [*recipe, *own, "--save-device", str(device), "--calibrate"]
    assert main(["plan", *calibrated, str(run), "--device", "h100"]) == 2
    assert "--calibrate: learner of run-1 took 40 s" in capsys.readouterr().err
    assert not device.exists()
    (tmp_path / "latest").symlink_to(run)
    saved = planned([*calibrated, "latest", "--output-dir", str(tmp_path)], capsys)
    used = planned([*recipe, *own, "--device", str(device)], capsys)

    assert used["busy_s"] == pytest.approx(saved["busy_s"])
    roles = {role: used["busy_s"][role] for role in ("samplers", "teachers", "learner", "weights")}
    assert roles == pytest.approx({"samplers": 20, "teachers": 5, "learner": 40, "weights": 3})
    assert {each["role"] for each in saved["calibration"]} == {"sampler", "teacher", "learner", "publish"}


@pytest.mark.parametrize(
    ("option", "tokens", "needle"),
    [
        ("--prompt-tokens", "inf", "must be a number"),
        ("--prompt-tokens", "100000", "sampler.max_model_len"),
        ("--completion-tokens", "5000", "sampling.max_new_tokens"),
        ("--fixed-tokens", "65", "sampling.max_new_tokens"),
    ],
)
def test_lengths_that_the_recipe_does_not_allow_are_refused(
    option: str, tokens: str, needle: str, recipe: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *recipe, option, tokens]) == 2
    told = capsys.readouterr().err
    assert f"{option}: " in told
    assert needle in told


def test_a_size_gets_the_vocabulary_of_the_folder(recipe: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--student-params", "77M", "--teacher-params", "8B"]
    engine = ["teacher.engine=hf", "teacher.transport=full"]
    found = planned([*recipe, *sizes, *engine, "--gpus", "8", "--device", "h100"], capsys)
    assert found["student"]["params"] == pytest.approx(77e6)
    assert found["wire_bytes_per_step"]["targets"] == 4 * 128256 * found["tokens_per_step"]["learner"]
