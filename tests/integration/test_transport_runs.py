"""Whole runs in one process, each with another transport of the teacher: they train, and the student comes nearer."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gkd_dist.cli import main
from tests.serving import VllmServe

EXACT = ["objective.divergence=forward_kl"]
DRAWN = ["objective={divergence: reverse_kl, student_fraction: 1}", "learner.batch_size=8"]


def run(models: dict[str, Path], output: Path, *extra: str) -> list[dict[str, float]]:
    """The records of a run of six steps."""
    data = output / "pairs.jsonl"
    lines = [f'{{"prompt": "w{3 + row} w9 w{20 + row}", "completion": "w7 w8 w9 w10"}}\n' for row in range(40)]
    data.write_text("".join(lines))
    folders = [f"student.model={models['student']}", f"teacher.model={models['teacher']}"]
    settings = [
        f"data.path={data}",
        f"output_dir={output}",
        "learner={max_steps: 6, batch_size: 4, learning_rate: 3e-3}",
    ]
    assert main(["run", "tiny", *folders, *settings, *extra]) == 0
    lines = (output / "latest" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("engine", ["hf", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_topk(models: dict[str, Path], tmp_path: Path, engine: str) -> None:
    extra = [] if engine == "hf" else [f"teacher.engine={engine}"]
    records = run(models, tmp_path, *extra, *EXACT, "teacher.transport=topk", "teacher.top_k=32")
    assert len(records) == 6
    assert records[-1]["loss"] < records[0]["loss"]


@pytest.mark.parametrize("engine", ["hf", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_sampled(models: dict[str, Path], tmp_path: Path, engine: str) -> None:
    extra = [] if engine == "hf" else [f"teacher.engine={engine}"]
    records = run(models, tmp_path, *extra, *DRAWN, "teacher.transport=sampled")
    assert len(records) == 6
    assert all(record["grad_norm"] > 0 for record in records)


@pytest.fixture(scope="module")
def server(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServe]:
    log = tmp_path_factory.mktemp("serve") / "serve.log"
    serve = VllmServe(models["teacher"], log, "--max-model-len", "257", "--max-logprobs", "32")
    try:
        serve.start()
        serve.wait()
        yield serve
    finally:
        serve.kill()


@pytest.mark.vllm
def test_a_server(models: dict[str, Path], tmp_path: Path, server: VllmServe) -> None:
    """The loss and the gradient of the first step, as with the model on transformers here.

    On fixed pairs, since a sample may turn on a rounding. Later steps tell less: where a gradient is nothing but
    rounding, Adam makes a full step of it, so a millionth of the gradient becomes a thousandth of the next loss.
    """
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    topk = [*EXACT, "objective.student_fraction=0", "teacher.transport=topk", "teacher.top_k=32"]
    remote = run(models, there, *topk, "teacher.engine=server", f"teacher.base_url={server.url}")
    local = run(models, here, *topk)
    assert len(remote) == len(local) == 6
    assert remote[0]["loss"] == pytest.approx(local[0]["loss"], rel=1e-5)
    assert remote[0]["grad_norm"] == pytest.approx(local[0]["grad_norm"], rel=3e-5)
    assert remote[0]["teacher_mass"] == pytest.approx(local[0]["teacher_mass"], rel=1e-5)
