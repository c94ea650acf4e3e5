"""LoRA students through the whole ring in one process, on transformers engines."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from gkd_dist.cli import main
from gkd_dist.models.packaged import materialise
from tests.tiny_runs import arguments, losses

FAST = "learner.learning_rate=1e-2"


def test_both_ways_to_publish_train_alike(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """float32: the samplers differ by the rounding of W + BA, which leaves nearly every sampled token as it is."""
    for publish in ("merged", "adapter"):
        lora = f"student.lora={{r: 4, publish: {publish}}}"
        assert main(["run", *arguments(models, data, tmp_path / publish, lora, FAST)]) == 0
    assert losses(tmp_path / "adapter") == pytest.approx(losses(tmp_path / "merged"), rel=1e-3)
    finals = [
        AutoModelForCausalLM.from_pretrained(tmp_path / publish / "latest" / "final")(torch.arange(3, 20)[None]).logits
        for publish in ("merged", "adapter")
    ]
    torch.testing.assert_close(*finals, rtol=0, atol=1e-2 * finals[0].abs().max().item())


def test_packed_and_padded_runs_have_the_same_losses(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """At a rate at which Adam does not turn the rounding of a gradient into another sampled token."""
    for packing in ("true", "false"):
        assert main(["run", *arguments(models, data, tmp_path / packing, f"learner.packing={packing}")]) == 0
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
    assert main(["run", *arguments(models, data, tmp_path / "first", "student.lora={r: 4}", FAST)]) == 0
    final = tmp_path / "first" / "latest" / "final"
    assert not (final / "config.json").exists()
    card = (final / "README.md").read_text()
    assert "low-rank adapter" in card and str(models["student"]) in card and "library_name: peft" in card
    summary = json.loads((tmp_path / "first" / "latest" / "summary.json").read_text())
    capsys.readouterr()
    assert main(["eval", *arguments(models, data, tmp_path / "none", FAST), "--model", str(final)]) == 0
    table = capsys.readouterr().out
    assert f"{summary['after']['on_policy/forward_kl_nats']:.3f}" in table
    again = {**models, "student": final}
    assert main(["validate", *arguments(again, data, tmp_path / "second", FAST)]) == 0
    lora = "student.lora={r: 2, save: merged}"
    assert main(["run", *arguments(again, data, tmp_path / "second", lora, FAST)]) == 0
    assert (tmp_path / "second" / "latest" / "final" / "model.safetensors").is_file()
    assert materialise(str(final), tmp_path / "cache").parent == tmp_path / "cache" / "models"
