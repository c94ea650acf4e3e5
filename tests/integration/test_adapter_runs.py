"""LoRA students through the whole ring in one process, on transformers engines."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from gkd_dist.cli import main
from gkd_dist.models.packaged import materialise
from tests import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "student": tiny.save_causal(folder / "student", seed=1),
        "teacher": tiny.save_causal(folder / "teacher", seed=2, num_layers=3),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {"prompt": " ".join(f"w{3 + (row * 7 + word) % 120}" for word in range(5)), "completion": "w7 w8 w9 w10"}
        for row in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def overrides(models: dict[str, Path], data: Path, output: Path, *extra: str) -> list[str]:
    return [
        "tiny",
        f"student.model={models['student']}",
        f"teacher.model={models['teacher']}",
        f"data.path={data}",
        f"output_dir={output}",
        "learner.learning_rate=1e-2",
        *extra,
    ]


def losses(output: Path) -> list[float]:
    lines = (output / "latest" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_both_ways_to_publish_train_alike(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """float32: the samplers differ by the rounding of W + BA, which leaves nearly every sampled token as it is."""
    for publish in ("merged", "adapter"):
        lora = f"student.lora={{r: 4, publish: {publish}}}"
        assert main(["run", *overrides(models, data, tmp_path / publish, lora)]) == 0
    assert losses(tmp_path / "adapter") == pytest.approx(losses(tmp_path / "merged"), rel=1e-3)
    finals = [
        AutoModelForCausalLM.from_pretrained(tmp_path / publish / "latest" / "final")(torch.arange(3, 20)[None]).logits
        for publish in ("merged", "adapter")
    ]
    torch.testing.assert_close(*finals, rtol=0, atol=1e-2 * finals[0].abs().max().item())


def test_packed_and_padded_runs_have_the_same_losses(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    for packing in ("true", "false"):
        assert main(["run", *overrides(models, data, tmp_path / packing, f"learner.packing={packing}")]) == 0
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), rel=1e-3)


def test_a_saved_adapter_is_a_student_again(
    models: dict[str, Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Evaluated, and trained on: it is merged into the model cache first."""
    monkeypatch.setenv("GKD_CACHE_DIR", str(tmp_path / "cache"))
    assert main(["run", *overrides(models, data, tmp_path / "first", "student.lora={r: 4}")]) == 0
    final = tmp_path / "first" / "latest" / "final"
    assert not (final / "config.json").exists()
    card = (final / "README.md").read_text()
    assert "low-rank adapter" in card and str(models["student"]) in card and "library_name: peft" in card
    summary = json.loads((tmp_path / "first" / "latest" / "summary.json").read_text())
    capsys.readouterr()
    assert main(["eval", *overrides(models, data, tmp_path / "none"), "--model", str(final)]) == 0
    table = capsys.readouterr().out
    assert f"{summary['after']['on_policy/forward_kl_nats']:.3f}" in table
    again = {**models, "student": final}
    assert main(["validate", *overrides(again, data, tmp_path / "second")]) == 0
    lora = "student.lora={r: 2, save: merged}"
    assert main(["run", *overrides(again, data, tmp_path / "second", lora)]) == 0
    assert (tmp_path / "second" / "latest" / "final" / "model.safetensors").is_file()
    assert materialise(str(final), tmp_path / "cache").parent == tmp_path / "cache" / "models"
