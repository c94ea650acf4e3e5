"""`gkd eval` with a recipe, in this process, on models made here."""

import json
from pathlib import Path

import pytest

from gkd_dist.cli import main
from tests.tiny import save_causal
from tests.tiny_runs import arguments, save_pairs


def test_json_holds_the_figures_of_the_table_and_nothing_else_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {name: save_causal(tmp_path / name, seed=seed) for seed, name in enumerate(("student", "teacher"))}
    data = save_pairs(tmp_path / "data.jsonl")
    command = ["eval", *arguments(models, data, tmp_path), "data.num_held_out=3", "cluster.mode=local"]
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert (content["student"], content["num_prompts"]) == (str(models["student"]), 3)
    assert content["held_out"]["on_policy/forward_kl_nats"] > 0
    assert "evaluating on 3 held-out prompts" in err
    assert main(command) == 0
    table = capsys.readouterr().out
    assert all(name in table and f"{value:.3f}" in table for name, value in content["held_out"].items())
