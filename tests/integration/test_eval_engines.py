"""An evaluation on vLLM says what one on transformers says."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from gkd_dist.cli import main

pytestmark = pytest.mark.vllm


def predictions(models: dict[str, Path], out: Path, engine: str, *arguments: str) -> list[dict[str, Any]]:
    settings = [f"engine={engine}", "num_resamples=100", f"output={out / engine}"]
    assert main(["eval", str(models["student"]), *arguments, *settings]) == 0
    return [json.loads(line) for line in (out / engine / "predictions.jsonl").read_text().splitlines()]


def test_text_and_options_are_those_of_transformers(models: dict[str, Path], tmp_path: Path) -> None:
    problems, choices = tmp_path / "problems.jsonl", tmp_path / "choices.jsonl"
    problems.write_text("".join(f'{{"question": "w{n} w4", "answer": "#### {n}"}}\n' for n in range(5, 9)))
    rows = ({"subject": "law", "question": f"w{n}", "choices": ["w3", "w4"], "answer": 1} for n in range(5, 8))
    choices.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    greedy = ("--task", "gsm8k", "--data", str(problems), "decoding.max_new_tokens=8", "decoding.calculator=equations")
    wanted, found = (predictions(models, tmp_path / "text", engine, *greedy) for engine in ("hf", "vllm"))
    assert found == wanted
    options = ("--task", "mmlu", "--data", str(choices), "shots.num=0")
    wanted, found = (predictions(models, tmp_path / "options", engine, *options) for engine in ("hf", "vllm"))
    for own, other in zip(found, wanted, strict=True):
        assert own["log_probs"] == pytest.approx(other["log_probs"], abs=1e-3)
